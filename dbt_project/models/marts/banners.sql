{{ config(materialized='view') }}

with activity as (
    select
        banner_id,
        sum(impression_count) as impression_count,
        sum(click_count) as click_count
    from {{ ref('int_banner_days') }}
    group by banner_id
),

orders as (
    {{ attributed_orders_by('banner_id') }}
)

select
    banners.banner_id,
    banners.campaign_id,
    banners.title,
    banners.landing_category_id,
    banners.created_at,
    cast(coalesce(activity.impression_count, 0) as bigint) as impression_count,
    cast(coalesce(activity.click_count, 0) as bigint) as click_count,
    coalesce(orders.attributed_order_count, 0) as attributed_order_count,
    coalesce(orders.attributed_order_line_count, 0) as attributed_order_line_count,
    coalesce(orders.attributed_order_amount, 0) as attributed_order_amount
from {{ ref('stg_banners') }} as banners
left join activity on banners.banner_id = activity.banner_id
left join orders on banners.banner_id = orders.banner_id
