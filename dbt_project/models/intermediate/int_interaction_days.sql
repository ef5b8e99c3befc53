{{ config(materialized='incremental', partition_by='event_date') }}

select
    event_date,
    visitor_id,
    session_id,
    product_id,
    count(*) as event_count,
    count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
    count(case when kind = 'cart' then 1 end) as cart_count,
    count(case when kind = 'order' then 1 end) as order_count,
    coalesce(sum(implicit_weight), 0) as weight,
    max(occurred_at) as last_at
from {{ ref('int_events_sessionised') }}
where
    product_id is not null
    and kind in ('page_view', 'product_view', 'favourite', 'cart', 'order')
    and {{ in_window('event_date') }}
group by event_date, visitor_id, session_id, product_id
