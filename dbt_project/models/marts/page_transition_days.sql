{{ config(materialized='view') }}

select
    event_date,
    from_page,
    to_page,
    cast(visit_count as bigint) as transition_count
from {{ ref('int_page_step_days') }}
union all
select
    event_date,
    '(entry)' as from_page,
    from_page as to_page,
    cast(sum(entry_count) as bigint) as transition_count
from {{ ref('int_page_step_days') }}
group by event_date, from_page
having sum(entry_count) > 0
