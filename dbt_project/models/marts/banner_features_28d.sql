{{ config(materialized='incremental', partition_by='feature_at', meta={'days_late': 1}) }}
{% set double = type_double() %}

with lives as (
    select banner_id, min(activity_date) as first_date
    from {{ ref('int_banner_days') }}
    group by banner_id
),

days as (
    select
        lives.banner_id,
        calendar.calendar_date,
        coalesce(activity.impression_count, 0) as impression_count,
        coalesce(activity.click_count, 0) as click_count
    from lives
    inner join {{ ref('int_days') }} as calendar
        on calendar.calendar_date >= lives.first_date
        and {{ in_window('calendar.calendar_date', before=27) }}
    left join {{ ref('int_banner_days') }} as activity
        on lives.banner_id = activity.banner_id
        and calendar.calendar_date = activity.activity_date
        and {{ in_window('activity.activity_date', before=27) }}
),

totals as (
    select
        banner_id,
        calendar_date,
        cast(sum(impression_count) over trailing_28d as {{ double }}) as banner_impression_count_28d,
        cast(sum(click_count) over trailing_28d as {{ double }}) as banner_click_count_28d
    from days
    window trailing_28d as (partition by banner_id order by calendar_date {{ trailing(28) }})
)

select
    banner_id,
    {{ next_midnight('calendar_date') }} as feature_at,
    banner_impression_count_28d,
    banner_click_count_28d
from totals
where {{ in_window('calendar_date') }}
