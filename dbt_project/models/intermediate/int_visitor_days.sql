{{ config(materialized='incremental', partition_by='activity_date') }}

with events as (
    select * from {{ ref('int_events_sessionised') }}
    where {{ in_window('event_date') }}
),

days as (
    select
        visitor_id,
        event_date as activity_date,
        max(customer_id) as customer_id,
        min(occurred_at) as first_seen_at,
        max(occurred_at) as last_seen_at,
        count(*) as event_count,
        count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
        count(case when kind = 'cart' then 1 end) as cart_count
    from events
    group by visitor_id, event_date
),

orders as (
    select visitor_id, event_date as activity_date, count(*) as order_count, {{ stable_sum('amount') }} as order_amount
    from events
    where kind = 'order'
    group by visitor_id, event_date
),

impressions as (
    select visitor_id, impressed_date as activity_date, count(*) as impression_count
    from {{ ref('int_impressions_labelled') }}
    where {{ in_window('impressed_date') }}
    group by visitor_id, impressed_date
),

-- A click is dated when it happened: on the day of its impression it was not known yet.
clicks as (
    select visitor_id, {{ day_of('clicked_at') }} as activity_date, count(*) as click_count
    from {{ ref('int_impressions_labelled') }}
    where
        is_clicked
        and {{ in_window('clicked_at') }}
        and {{ in_window('impressed_date', before=attribution_day_count()) }}
    group by visitor_id, {{ day_of('clicked_at') }}
)

select
    days.visitor_id,
    days.activity_date,
    days.customer_id,
    days.first_seen_at,
    days.last_seen_at,
    days.event_count,
    days.view_count,
    days.cart_count,
    coalesce(orders.order_count, 0) as order_count,
    coalesce(orders.order_amount, 0) as order_amount,
    coalesce(impressions.impression_count, 0) as impression_count,
    coalesce(clicks.click_count, 0) as click_count
from days
left join orders
    on days.visitor_id = orders.visitor_id
    and days.activity_date = orders.activity_date
left join impressions
    on days.visitor_id = impressions.visitor_id
    and days.activity_date = impressions.activity_date
left join clicks
    on days.visitor_id = clicks.visitor_id
    and days.activity_date = clicks.activity_date
