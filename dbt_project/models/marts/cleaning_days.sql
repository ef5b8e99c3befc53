{{ config(materialized='incremental', partition_by='event_date') }}

with rules as (
    select 'bot' as rule
    union all
    select 'shared_cookie' as rule
),

days as (
    select activity_date, cast(sum(event_count) as bigint) as event_count
    from {{ ref('int_visitor_days') }}
    where {{ in_window('activity_date') }}
    group by activity_date
),

dropped as (
    select activity_date, reason, cast(sum(event_count) as bigint) as event_count, count(*) as visitor_count
    from {{ ref('int_visitor_day_flags') }}
    where {{ in_window('activity_date') }}
    group by activity_date, reason
)

select
    days.activity_date as event_date,
    rules.rule,
    days.event_count,
    coalesce(dropped.event_count, 0) as dropped_event_count,
    coalesce(dropped.visitor_count, 0) as dropped_visitor_count
from days
cross join rules
left join dropped
    on days.activity_date = dropped.activity_date
    and rules.rule = dropped.reason
