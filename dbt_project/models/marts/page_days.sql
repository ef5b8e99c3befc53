{{ config(
    materialized='incremental', partition_by='event_date', meta={'days_before': 1}
) }}

with orders as (
    select
        visitor_id,
        session_id,
        occurred_at,
        sum(cast(coalesce(amount, 0) as decimal(18, 4))) as amount
    from {{ ref('int_events_sessionised') }}
    where
        kind = 'order'
        and {{ in_window('event_date', before=1, after=1) }}
    group by visitor_id, session_id, occurred_at
),

visit_values as (
    select
        visits.event_id,
        visits.event_date,
        visits.page,
        sum(orders.amount) as amount
    from {{ ref('int_page_visits') }} as visits
    inner join orders
        on visits.visitor_id = orders.visitor_id
        and visits.session_id = orders.session_id
        and orders.occurred_at >= visits.occurred_at
        and orders.occurred_at < visits.occurred_at + interval '1' day
    where {{ in_window('visits.event_date', before=1) }}
    group by visits.event_id, visits.event_date, visits.page
),

page_values as (
    select event_date, page, count(*) as order_visit_count, sum(amount) as value_amount
    from visit_values
    group by event_date, page
),

steps as (
    select
        event_date,
        from_page as page,
        sum(visit_count) as visit_count,
        sum(entry_count) as entry_count,
        sum(case when to_page = '(exit)' then visit_count else 0 end) as exit_count,
        sum(bounce_count) as bounce_count,
        sum(dwell_count) as dwell_count,
        sum(dwell_microseconds) as dwell_microseconds
    from {{ ref('int_page_step_days') }}
    where {{ in_window('event_date', before=1) }}
    group by event_date, from_page
)

select
    steps.event_date,
    steps.page,
    cast(steps.visit_count as bigint) as visit_count,
    cast(steps.entry_count as bigint) as entry_count,
    cast(steps.exit_count as bigint) as exit_count,
    cast(steps.bounce_count as bigint) as bounce_count,
    cast(steps.dwell_count as bigint) as dwell_count,
    cast(steps.dwell_microseconds as {{ type_double() }}) / 1000000 as dwell_seconds,
    cast(coalesce(page_values.order_visit_count, 0) as bigint) as order_visit_count,
    cast(coalesce(page_values.value_amount, 0) as {{ type_double() }}) as value_amount
from steps
left join page_values
    on steps.event_date = page_values.event_date
    and steps.page = page_values.page
