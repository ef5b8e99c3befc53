{{ config(materialized='incremental', partition_by='activity_date') }}

select
    product_id,
    event_date as activity_date,
    count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
    count(case when kind = 'cart' then 1 end) as cart_count,
    count(case when kind = 'order' then 1 end) as order_count
from {{ ref('int_events_sessionised') }}
where
    product_id is not null
    and {{ in_window('event_date') }}
group by product_id, event_date
