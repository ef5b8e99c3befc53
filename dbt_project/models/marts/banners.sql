with activity as (
    select banner_id, count(*) as impression_count, count(case when is_clicked then 1 end) as click_count
    from {{ ref('int_impressions_labelled') }}
    group by banner_id
)

select
    banners.banner_id,
    banners.campaign_id,
    banners.title,
    banners.landing_category_id,
    banners.created_at,
    coalesce(activity.impression_count, 0) as impression_count,
    coalesce(activity.click_count, 0) as click_count
from {{ ref('stg_banners') }} as banners
left join activity on banners.banner_id = activity.banner_id
