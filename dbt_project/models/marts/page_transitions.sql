{{ config(materialized='view') }}

with transitions as (
    select
        from_page,
        to_page,
        cast(sum(transition_count) as bigint) as transition_count
    from {{ ref('page_transition_days') }}
    group by from_page, to_page
)

select
    from_page,
    to_page,
    transition_count,
    {{ ratio('transition_count', 'sum(transition_count) over (partition by from_page)') }} as transition_rate
from transitions
