{{ config(materialized='view') }}

with totals as (
    select
        page,
        min(event_date) as first_date,
        max(event_date) as last_date,
        cast(sum(visit_count) as bigint) as visit_count,
        cast(sum(entry_count) as bigint) as entry_count,
        cast(sum(exit_count) as bigint) as exit_count,
        cast(sum(bounce_count) as bigint) as bounce_count,
        sum(dwell_count) as dwell_count,
        sum(cast(dwell_seconds as decimal(28, 6))) as dwell_seconds,
        cast(sum(order_visit_count) as bigint) as order_visit_count,
        sum(cast(value_amount as decimal(28, 4))) as value_amount
    from {{ ref('page_days') }}
    group by page
)

select
    page,
    first_date,
    last_date,
    visit_count,
    entry_count,
    exit_count,
    bounce_count,
    {{ rounded(ratio('bounce_count', 'entry_count')) }} as bounce_rate,
    {{ rounded(ratio('cast(dwell_seconds as ' ~ type_double() ~ ')', 'dwell_count')) }} as mean_dwell_seconds,
    order_visit_count,
    cast(value_amount as {{ type_double() }}) as value_amount,
    {{ rounded(ratio('cast(value_amount as ' ~ type_double() ~ ')', 'visit_count')) }} as mean_value_amount
from totals
