{{ config(materialized='incremental', partition_by='event_date') }}

with {{ clean_items() }},

sessions as (
    select distinct event_date, visitor_id, session_id from items
)

select event_date, count(*) as session_count
from sessions
group by event_date
