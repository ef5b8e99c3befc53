select
    visitor_id,
    max(customer_id) as customer_id,
    min(occurred_at) as first_seen_at,
    max(occurred_at) as last_seen_at,
    count(*) as event_count,
    count(distinct session_id) as session_count,
    count(distinct event_date) as active_day_count,
    count(case when kind = 'order' then 1 end) as order_count,
    coalesce({{ stable_sum("case when kind = 'order' then amount end") }}, 0) as order_amount
from {{ ref('int_events_sessionised') }}
group by visitor_id
