{{ config(materialized='view') }}
{% set hour = 3600 * 1000000 %}

with events as (
    select event_id, event_date, occurred_at, visitor_id, session_id, kind, page, product_id
    from {{ ref('int_events_sessionised') }}
),

gaps as (
    select
        events.*,
        {{ microseconds_between('occurred_at', 'lead(occurred_at) over (
            partition by visitor_id, session_id order by occurred_at, event_id
        )') }} as gap
    from events
),

-- Who stays away for an hour has left: of such an event nobody knows the dwell.
known as (
    select gaps.*, case when gap < {{ hour }} then gap end as dwell
    from gaps
),

means as (
    select event_date, kind, sum(dwell) / cast(count(*) as {{ type_double() }}) as mean_dwell
    from known
    where dwell is not null
    group by event_date, kind
)

select
    known.event_id,
    known.event_date,
    known.visitor_id,
    known.session_id,
    known.kind,
    known.page,
    known.product_id,
    coalesce(known.dwell, means.mean_dwell) / 1000000 as dwell_seconds,
    known.dwell is not null as is_dwell_known
from known
left join means on known.event_date = means.event_date and known.kind = means.kind
