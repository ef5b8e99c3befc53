{{ config(materialized='incremental', partition_by='event_date') }}

with flagged as (
    select distinct visitor_id, activity_date from {{ ref('int_visitor_day_flags') }}
    where {{ in_window('activity_date') }}
),

sessions as (
    select distinct interactions.event_date, interactions.visitor_id, interactions.session_id
    from {{ ref('int_interaction_days') }} as interactions
    left join flagged
        on interactions.visitor_id = flagged.visitor_id
        and interactions.event_date = flagged.activity_date
    where
        flagged.visitor_id is null
        and {{ in_window('interactions.event_date') }}
)

select event_date, count(*) as session_count
from sessions
group by event_date
