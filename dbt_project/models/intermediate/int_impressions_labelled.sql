{{ config(
    materialized='incremental', partition_by='impressed_date', meta={'days_before': attribution_day_count()}
) }}
{% set attribution_seconds = (var('attribution_days') | float * 86400) | round | int %}
{% set days = attribution_day_count() %}

with reports as (
    select * from {{ ref('int_events_sessionised') }} as events
    where kind = 'impression' and {{ in_window('event_date', before=days) }}
    {%- if is_windowed() %}
    and not exists (
        select 1
        from {{ this }} as older
        where older.impression_id = events.impression_id and {{ before_window('older.impressed_date', before=days) }}
    )
    {%- endif %}
),

clicks as (
    select impression_id, occurred_at from {{ ref('int_events_sessionised') }}
    where kind = 'click' and impression_id is not null and {{ in_window('event_date', before=days, after=days) }}
),

-- An impression reported twice under different event ids was shown once: its first report stands.
shown as (
    select
        reports.*,
        row_number() over (partition by impression_id order by occurred_at, event_id) as report_rank
    from reports
),

windows as (
    select
        shown.*,
        banners.campaign_id,
        case
            when campaigns.ends_at is null then shown.occurred_at + interval '{{ attribution_seconds }}' second
            else least(
                shown.occurred_at + interval '{{ attribution_seconds }}' second,
                greatest(campaigns.ends_at, shown.occurred_at) + interval '1' day
            )
        end as label_known_at
    from shown
    left join {{ ref('stg_banners') }} as banners on shown.banner_id = banners.banner_id
    left join {{ ref('stg_campaigns') }} as campaigns on banners.campaign_id = campaigns.campaign_id
    where shown.report_rank = 1
),

first_clicks as (
    select
        windows.impression_id,
        min(clicks.occurred_at) as clicked_at
    from windows
    inner join clicks
        on windows.impression_id = clicks.impression_id
        and clicks.occurred_at >= windows.occurred_at
        and clicks.occurred_at < windows.label_known_at
    group by windows.impression_id
)

select
    windows.impression_id,
    windows.event_id,
    windows.occurred_at as impressed_at,
    windows.event_date as impressed_date,
    windows.visitor_id,
    windows.customer_id,
    windows.session_id,
    windows.product_id,
    windows.banner_id,
    windows.campaign_id,
    windows.placement_id,
    windows.position,
    windows.request_id,
    windows.page,
    windows.device,
    windows.country,
    windows.referrer,
    windows.arm,
    windows.policy,
    windows.propensity,
    windows.features,
    first_clicks.clicked_at is not null as is_clicked,
    first_clicks.clicked_at,
    windows.label_known_at
from windows
left join first_clicks on windows.impression_id = first_clicks.impression_id
