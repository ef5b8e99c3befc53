{{ config(materialized=upserted(), unique_key='visitor_id') }}

with days as (
    select * from {{ ref('int_visitor_days') }}
    {%- if is_windowed() %}
    where visitor_id in (
        select visitor_id from {{ ref('int_visitor_days') }} where {{ since_window('activity_date') }}
    )
    {%- endif %}
),

sessions as (
    select visitor_id, count(*) as session_count
    from {{ ref('sessions') }}
    {%- if is_windowed() %}
    where visitor_id in (select visitor_id from days)
    {%- endif %}
    group by visitor_id
),

orders as (
    select visitor_id, {{ stable_sum('order_amount') }} as order_amount
    from days
    where order_count > 0
    group by visitor_id
),

visitors as (
    select
        visitor_id,
        max(customer_id) as customer_id,
        min(first_seen_at) as first_seen_at,
        max(last_seen_at) as last_seen_at,
        sum(event_count) as event_count,
        count(*) as active_day_count,
        sum(order_count) as order_count
    from days
    group by visitor_id
)

select
    visitors.visitor_id,
    visitors.customer_id,
    visitors.first_seen_at,
    visitors.last_seen_at,
    cast(visitors.event_count as bigint) as event_count,
    sessions.session_count,
    visitors.active_day_count,
    cast(visitors.order_count as bigint) as order_count,
    coalesce(orders.order_amount, 0) as order_amount
from visitors
inner join sessions on visitors.visitor_id = sessions.visitor_id
left join orders on visitors.visitor_id = orders.visitor_id
