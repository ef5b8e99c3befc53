with admitted as (
    {{ admitted_rows('events') }}
)

-- An empty id is none.
select
    event_id,
    kind,
    occurred_at,
    visitor_id,
    nullif(customer_id, '') as customer_id,
    nullif(session_id, '') as session_id,
    nullif(product_id, '') as product_id,
    nullif(banner_id, '') as banner_id,
    nullif(placement_id, '') as placement_id,
    position,
    nullif(request_id, '') as request_id,
    nullif(impression_id, '') as impression_id,
    nullif(order_id, '') as order_id,
    page,
    quantity,
    amount,
    device,
    country,
    referrer,
    arm,
    policy,
    propensity,
    features,
    nullif(notification_id, '') as notification_id,
    nullif(notification_type, '') as notification_type
from admitted
