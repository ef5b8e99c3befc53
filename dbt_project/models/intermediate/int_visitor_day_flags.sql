{{ config(materialized='incremental', partition_by='activity_date') }}

with days as (
    select visitor_id, activity_date, event_count, view_count from {{ ref('int_visitor_days') }}
    where {{ in_window('activity_date') }}
),

events as (
    select visitor_id, event_date as activity_date, occurred_at, kind, customer_id
    from {{ ref('int_events_sessionised') }}
    where {{ in_window('event_date') }}
),

gaps as (
    select
        events.visitor_id,
        events.activity_date,
        {{ microseconds_between(
            'lag(events.occurred_at) over (
                partition by events.visitor_id, events.activity_date order by events.occurred_at
            )',
            'events.occurred_at'
        ) }} as gap
    from events
    inner join days
        on events.visitor_id = days.visitor_id
        and events.activity_date = days.activity_date
    where days.view_count > {{ var('bot_gap_views') }} and events.kind in ('page_view', 'product_view')
),

-- Views at one and the same moment say nothing: a source may know no more than the minute or the day.
hasty as (
    select visitor_id, activity_date
    from gaps
    where gap > 0
    group by visitor_id, activity_date
    having count(*) >= {{ var('bot_gap_views') }} and 2 * count(case when gap < 1000000 then 1 end) > count(*)
),

shared as (
    select visitor_id, activity_date
    from events
    where customer_id is not null
    group by visitor_id, activity_date
    having count(distinct customer_id) > {{ var('shared_cookie_customers') }}
)

select days.visitor_id, days.activity_date, 'bot' as reason, days.event_count
from days
left join hasty
    on days.visitor_id = hasty.visitor_id
    and days.activity_date = hasty.activity_date
where days.event_count > {{ var('bot_events_per_day') }} or hasty.visitor_id is not null
union all
select days.visitor_id, days.activity_date, 'shared_cookie' as reason, days.event_count
from days
inner join shared
    on days.visitor_id = shared.visitor_id
    and days.activity_date = shared.activity_date
