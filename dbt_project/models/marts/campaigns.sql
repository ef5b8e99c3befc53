{{ config(materialized='view') }}

with banners as (
    select
        campaign_id,
        count(*) as banner_count,
        sum(impression_count) as impression_count,
        sum(click_count) as click_count
    from {{ ref('banners') }}
    group by campaign_id
),

-- Not the sum over banners: lines of one order may be two banners' and still one campaign's.
orders as (
    {{ attributed_orders_by('campaign_id') }}
)

select
    campaigns.campaign_id,
    campaigns.title,
    campaigns.starts_at,
    campaigns.ends_at,
    campaigns.status,
    coalesce(banners.banner_count, 0) as banner_count,
    cast(coalesce(banners.impression_count, 0) as bigint) as impression_count,
    cast(coalesce(banners.click_count, 0) as bigint) as click_count,
    coalesce(orders.attributed_order_count, 0) as attributed_order_count,
    coalesce(orders.attributed_order_line_count, 0) as attributed_order_line_count,
    coalesce(orders.attributed_order_amount, 0) as attributed_order_amount
from {{ ref('stg_campaigns') }} as campaigns
left join banners on campaigns.campaign_id = banners.campaign_id
left join orders on campaigns.campaign_id = orders.campaign_id
