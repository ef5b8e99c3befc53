{{ config(materialized='incremental', partition_by='event_date') }}

with rules as (
    select 'bot' as rule
    union all
    select 'shared_cookie' as rule
    union all
    select 'duplicate_impression' as rule
),

days as (
    select activity_date, cast(sum(event_count) as bigint) as event_count
    from {{ ref('int_visitor_days') }}
    where {{ in_window('activity_date') }}
    group by activity_date
),

-- Of each impression the first report stands, as int_impressions_labelled has it.
repeated as (
    select reports.event_date, reports.visitor_id
    from {{ ref('int_events_sessionised') }} as reports
    left join {{ ref('int_impressions_labelled') }} as first_reports
        on reports.event_id = first_reports.event_id
        and {{ in_window('first_reports.impressed_date') }}
    where
        reports.kind = 'impression'
        and first_reports.event_id is null
        and {{ in_window('reports.event_date') }}
),

dropped as (
    select activity_date, reason as rule, cast(sum(event_count) as bigint) as event_count, count(*) as visitor_count
    from {{ ref('int_visitor_day_flags') }}
    where {{ in_window('activity_date') }}
    group by activity_date, reason
    union all
    select
        event_date as activity_date,
        'duplicate_impression' as rule,
        count(*) as event_count,
        count(distinct visitor_id) as visitor_count
    from repeated
    group by event_date
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
    and rules.rule = dropped.rule
