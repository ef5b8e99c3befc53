{{ config(materialized='incremental', partition_by='event_date', meta={'days_before': 1}) }}

-- An event may last over midnight, so the days on both sides are read and the day before is built again.
with events as (
    select event_id, event_date, occurred_at, visitor_id, session_id, kind, product_id, implicit_weight
    from {{ ref('int_events_sessionised') }}
    where {{ in_window('event_date', before=1, after=1) }}
),

{{ event_dwells() }}

select
    event_date,
    visitor_id,
    session_id,
    product_id,
    count(*) as event_count,
    count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
    count(case when kind = 'cart' then 1 end) as cart_count,
    count(case when kind = 'order' then 1 end) as order_count,
    cast(coalesce(sum(cast(implicit_weight as decimal(18, 6))), 0) as {{ type_double() }}) as weight,
    cast(sum(dwell_microseconds) as bigint) as dwell_microseconds,
    max(occurred_at) as last_at
from dwells
where
    product_id is not null
    and kind in ('page_view', 'product_view', 'favourite', 'cart', 'order')
    and {{ in_window('event_date', before=1) }}
group by event_date, visitor_id, session_id, product_id
