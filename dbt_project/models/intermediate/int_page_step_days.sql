{{ config(materialized='incremental', partition_by='event_date', meta={'days_before': 1}) }}

with visits as (
    select * from {{ ref('int_page_visits') }}
    where {{ in_window('event_date', before=2, after=1) }}
),

neighbours as (
    select
        event_date,
        page,
        occurred_at,
        lag(occurred_at) over path as previous_at,
        lead(occurred_at) over path as next_at,
        lead(page) over path as next_page
    from visits
    window path as (partition by visitor_id, session_id order by occurred_at, event_id)
),

-- A source's session may last for days; what comes a day later begins anew, so that a day's rows soon stand.
steps as (
    select
        event_date,
        page as from_page,
        case when next_at < occurred_at + interval '1' day then next_page else '(exit)' end as to_page,
        case when occurred_at < previous_at + interval '1' day then 0 else 1 end as is_entry,
        {{ microseconds_between('occurred_at', 'next_at') }} as gap
    from neighbours
    where {{ in_window('event_date', before=1) }}
)

select
    event_date,
    from_page,
    to_page,
    count(*) as visit_count,
    sum(is_entry) as entry_count,
    sum(case when to_page = '(exit)' then is_entry else 0 end) as bounce_count,
    count({{ known_dwell('gap') }}) as dwell_count,
    coalesce(sum({{ known_dwell('gap') }}), 0) as dwell_microseconds
from steps
group by event_date, from_page, to_page
