{{ config(materialized='incremental', partition_by='ordered_date') }}

-- Money is summed as decimals: exact, so that equal customers stay equal, in any order and on any target.
select
    customer_id,
    visitor_id,
    coalesce(order_id, session_id) as order_id,
    event_date as ordered_date,
    count(case when kind = 'order' then 1 end) as order_line_count,
    sum(cast(case when kind = 'order' then coalesce(amount, 0) else 0 end as decimal(18, 4))) as order_amount,
    sum(cast(case when kind = 'return' then coalesce(amount, 0) else 0 end as decimal(18, 4))) as return_amount
from {{ ref('int_events_sessionised') }}
where
    kind in ('order', 'return')
    and {{ in_window('event_date') }}
group by customer_id, visitor_id, coalesce(order_id, session_id), event_date
