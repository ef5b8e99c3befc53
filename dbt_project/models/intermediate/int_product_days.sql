{{ config(materialized='incremental', partition_by='activity_date') }}

select
    product_id,
    event_date as activity_date,
    cast(sum(event_count) as bigint) as event_count,
    cast(sum(view_count) as bigint) as view_count,
    cast(sum(cart_count) as bigint) as cart_count,
    cast(sum(order_count) as bigint) as order_count,
    count(*) as session_count
from {{ ref('int_interaction_days') }}
where {{ in_window('event_date') }}
group by product_id, event_date
