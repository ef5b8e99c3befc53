{{ config(materialized='view') }}

select
    event_id,
    event_date,
    occurred_at,
    visitor_id,
    session_id,
    coalesce(page, 'product/' || product_id) as page
from {{ ref('int_events_sessionised') }}
where
    kind in ('page_view', 'product_view')
    and coalesce(page, product_id) is not null
