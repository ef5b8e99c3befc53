{{ config(materialized='incremental', partition_by='activity_date') }}

with activity as (
    select banner_id, impressed_date as activity_date, 1 as impression_count, 0 as click_count
    from {{ ref('int_impressions_clean') }}
    where {{ in_window('impressed_date') }}
    union all
    -- A click is dated when it happened: on the day of its impression it was not known yet.
    select banner_id, {{ day_of('clicked_at') }} as activity_date, 0 as impression_count, 1 as click_count
    from {{ ref('int_impressions_clean') }}
    where
        is_clicked
        and {{ in_window('clicked_at') }}
        and {{ in_window('impressed_date', before=attribution_day_count()) }}
)

select
    banner_id,
    activity_date,
    sum(impression_count) as impression_count,
    sum(click_count) as click_count
from activity
group by banner_id, activity_date
