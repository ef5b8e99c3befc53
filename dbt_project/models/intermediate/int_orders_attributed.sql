{{ config(materialized='incremental', partition_by='ordered_date') }}
{% set days = var('order_attribution_days') | int %}

with orders as (
    select
        event_id,
        coalesce(order_id, session_id) as order_id,
        visitor_id,
        product_id,
        amount,
        occurred_at,
        event_date
    from {{ ref('int_events_sessionised') }}
    where kind = 'order' and {{ in_window('event_date') }}
),

clicks as (
    select
        impression_id,
        visitor_id,
        banner_id,
        campaign_id,
        clicked_at,
        row_number() over (partition by visitor_id, clicked_at order by impression_id) as click_rank
    from {{ ref('int_impressions_clean') }}
    where
        is_clicked
        and {{ in_window('clicked_at', before=days) }}
        and {{ in_window('impressed_date', before=days + attribution_day_count()) }}
),

moments as (
    select event_id, visitor_id, occurred_at as happened_at, cast(null as timestamp) as clicked_at from orders
    union all
    select null as event_id, visitor_id, clicked_at as happened_at, clicked_at from clicks
    where click_rank = 1
),

last_clicks as (
    select
        event_id,
        max(clicked_at) over (
            partition by visitor_id order by happened_at
            range between unbounded preceding and current row
        ) as clicked_at
    from moments
),

promoted as (
    select distinct banner_id, product_id from {{ ref('stg_banner_products') }}
)

select
    orders.event_id as order_event_id,
    orders.order_id,
    orders.visitor_id,
    orders.product_id,
    clicks.impression_id,
    clicks.banner_id,
    clicks.campaign_id,
    clicks.clicked_at,
    orders.occurred_at as ordered_at,
    orders.event_date as ordered_date,
    orders.amount,
    promoted.product_id is not null as is_promoted_product
from orders
inner join last_clicks on orders.event_id = last_clicks.event_id
inner join clicks
    on orders.visitor_id = clicks.visitor_id
    and last_clicks.clicked_at = clicks.clicked_at
    and clicks.click_rank = 1
left join promoted
    on clicks.banner_id = promoted.banner_id
    and orders.product_id = promoted.product_id
where orders.occurred_at < clicks.clicked_at + interval '{{ days }}' day
