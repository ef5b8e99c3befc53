with known as (
    select count(customer_id) as customer_count from {{ ref('int_order_days') }}
),

newest as (
    select max(last_seen_at) as feature_at from {{ ref('visitors') }}
),

-- Where no order names a customer, the visitor stands for one.
visitors as (
    select
        visitors.visitor_id,
        case when known.customer_count > 0 then visitors.customer_id else visitors.visitor_id end as customer_id,
        newest.feature_at
    from {{ ref('visitors') }} as visitors
    cross join known
    cross join newest
)

select
    visitors.visitor_id,
    visitors.feature_at,
    segments.segment
from visitors
inner join {{ ref('customer_segments') }} as segments on visitors.customer_id = segments.customer_id
