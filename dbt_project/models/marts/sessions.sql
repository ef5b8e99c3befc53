select
    session_id,
    visitor_id,
    min(occurred_at) as started_at,
    max(occurred_at) as ended_at,
    count(*) as event_count,
    count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
    count(case when kind = 'cart' then 1 end) as cart_count,
    count(case when kind = 'order' then 1 end) as order_count,
    count(case when kind = 'impression' then 1 end) as impression_count,
    count(case when kind = 'click' then 1 end) as click_count
from {{ ref('int_events_sessionised') }}
group by session_id, visitor_id
