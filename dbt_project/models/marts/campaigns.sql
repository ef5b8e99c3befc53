with activity as (
    select campaign_id, count(*) as impression_count, count(case when is_clicked then 1 end) as click_count
    from {{ ref('int_impressions_labelled') }}
    group by campaign_id
),

banners as (
    select campaign_id, count(*) as banner_count
    from {{ ref('stg_banners') }}
    group by campaign_id
)

select
    campaigns.campaign_id,
    campaigns.title,
    campaigns.starts_at,
    campaigns.ends_at,
    campaigns.status,
    coalesce(banners.banner_count, 0) as banner_count,
    coalesce(activity.impression_count, 0) as impression_count,
    coalesce(activity.click_count, 0) as click_count
from {{ ref('stg_campaigns') }} as campaigns
left join banners on campaigns.campaign_id = banners.campaign_id
left join activity on campaigns.campaign_id = activity.campaign_id
