{{ config(
    materialized=upserted(), meta={'window_column': 'impressed_at', 'days_before': attribution_day_count()}
) }}
{% set days = attribution_day_count() %}

with impressions as (
    select * from {{ ref('int_impressions_clean') }}
    where {{ in_window('impressed_date', before=days) }}
)

select
    impressions.impression_id,
    impressions.visitor_id,
    impressions.banner_id,
    banners.campaign_id,
    impressions.session_id,
    impressions.impressed_at,
    impressions.label_known_at,
    impressions.placement_id,
    coalesce(impressions.position, 0) as position,
    coalesce(impressions.device, 'unknown') as device,
    coalesce(impressions.policy, 'unknown') as policy,
    impressions.propensity,
    impressions.is_clicked
from impressions
inner join {{ ref('banner_catalogue') }} as banners on impressions.banner_id = banners.banner_id
