with events as (
    select * from {{ ref('int_events_sessionised') }}
),

days as (
    select
        visitor_id,
        event_date as activity_date,
        max(occurred_at) as last_seen_at,
        count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
        count(case when kind = 'cart' then 1 end) as cart_count,
        count(case when kind = 'order' then 1 end) as order_count,
        coalesce({{ stable_sum("case when kind = 'order' then amount end") }}, 0) as order_amount
    from events
    group by visitor_id, event_date
),

impressions as (
    select visitor_id, impressed_date as activity_date, count(*) as impression_count
    from {{ ref('int_impressions_labelled') }}
    group by visitor_id, impressed_date
),

-- A click is dated when it happened: on the day of its impression it was not known yet.
clicks as (
    select visitor_id, {{ day_of('clicked_at') }} as activity_date, count(*) as click_count
    from {{ ref('int_impressions_labelled') }}
    where is_clicked
    group by visitor_id, {{ day_of('clicked_at') }}
)

select
    days.visitor_id,
    days.activity_date,
    days.last_seen_at,
    days.view_count,
    days.cart_count,
    days.order_count,
    days.order_amount,
    coalesce(impressions.impression_count, 0) as impression_count,
    coalesce(clicks.click_count, 0) as click_count
from days
left join impressions
    on days.visitor_id = impressions.visitor_id
    and days.activity_date = impressions.activity_date
left join clicks
    on days.visitor_id = clicks.visitor_id
    and days.activity_date = clicks.activity_date
