{{ config(
    materialized=upserted(), meta={'window_column': 'impressed_at', 'days_before': attribution_day_count()}
) }}
{% set days = attribution_day_count() %}

with impressions as (
    select * from {{ ref('impressions') }}
    where {{ in_window('impressed_at', before=days) }}
),

flagged as (
    select distinct visitor_id, activity_date from {{ ref('int_visitor_day_flags') }}
    where {{ in_window('activity_date', before=days) }}
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
left join flagged
    on impressions.visitor_id = flagged.visitor_id
    and {{ day_of('impressions.impressed_at') }} = flagged.activity_date
where flagged.visitor_id is null
