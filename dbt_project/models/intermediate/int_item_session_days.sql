{{ config(materialized='incremental', partition_by='event_date') }}

with flagged as (
    select distinct visitor_id, activity_date from {{ ref('int_visitor_day_flags') }}
)

select
    interactions.event_date,
    count(distinct interactions.visitor_id || ' ' || interactions.session_id) as session_count
from {{ ref('int_interaction_days') }} as interactions
left join flagged
    on interactions.visitor_id = flagged.visitor_id
    and interactions.event_date = flagged.activity_date
where
    flagged.visitor_id is null
    and {{ in_window('interactions.event_date') }}
group by interactions.event_date
