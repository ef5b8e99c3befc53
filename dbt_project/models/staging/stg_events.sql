with admitted as (
    {{ admitted_rows('events') }}
)

select
    event_id,
    kind,
    occurred_at,
    visitor_id,
    customer_id,
    session_id,
    product_id,
    banner_id,
    placement_id,
    position,
    request_id,
    impression_id,
    order_id,
    page,
    quantity,
    amount,
    device,
    country,
    referrer,
    arm,
    policy,
    propensity,
    features
from admitted
