{{ config(materialized='view') }}

with events as (
    select event_id, event_date, occurred_at, visitor_id, session_id, kind, page, product_id
    from {{ ref('int_events_sessionised') }}
),

{{ event_dwells() }}

select
    event_id,
    event_date,
    visitor_id,
    session_id,
    kind,
    page,
    product_id,
    cast(dwell_microseconds as {{ type_double() }}) / 1000000 as dwell_seconds,
    is_dwell_known
from dwells
