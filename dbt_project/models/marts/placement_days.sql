{% set days_before = attribution_day_count() %}
{{ config(
    materialized='incremental', partition_by='impressed_date', meta={'days_before': days_before}
) }}

with impressions as (
    select
        placement_id,
        coalesce(position, 0) as position,
        banner_id,
        impressed_date,
        coalesce(arm, 'unknown') as arm,
        coalesce(policy, 'unknown') as policy,
        visitor_id,
        session_id,
        is_clicked
    from {{ ref('int_impressions_clean') }}
    where {{ in_window('impressed_date', before=days_before) }}
),

sessions as (
    select
        placement_id,
        position,
        banner_id,
        impressed_date,
        arm,
        policy,
        count(*) as impression_count,
        count(case when is_clicked then 1 end) as click_count
    from impressions
    group by placement_id, position, banner_id, impressed_date, arm, policy, visitor_id, session_id
),

counts as (
    select
        placement_id,
        position,
        banner_id,
        impressed_date,
        arm,
        policy,
        cast(sum(impression_count) as bigint) as impression_count,
        cast(sum(click_count) as bigint) as click_count,
        count(*) as session_count,
        count(case when click_count > 0 then 1 end) as clicked_session_count
    from sessions
    group by placement_id, position, banner_id, impressed_date, arm, policy
)

select
    placement_id,
    cast(position as bigint) as position,
    banner_id,
    impressed_date,
    arm,
    policy,
    impression_count,
    click_count,
    {{ rounded(ratio('click_count', 'impression_count')) }} as click_rate,
    {{ wilson_end('click_count', 'impression_count', '-') }} as click_rate_low,
    {{ wilson_end('click_count', 'impression_count', '+') }} as click_rate_high,
    session_count,
    clicked_session_count,
    {{ rounded(ratio('clicked_session_count', 'session_count')) }} as session_click_rate,
    {{ wilson_end('clicked_session_count', 'session_count', '-') }} as session_click_rate_low,
    {{ wilson_end('clicked_session_count', 'session_count', '+') }} as session_click_rate_high
from counts
