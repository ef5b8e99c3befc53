with events as (
    select * from {{ ref('stg_events') }}
),

gaps as (
    select
        event_id,
        visitor_id,
        occurred_at,
        lag(occurred_at) over (partition by visitor_id order by occurred_at, event_id) as previous_at
    from events
    where session_id is null
),

starts as (
    select
        gaps.*,
        case
            when previous_at is null or occurred_at >= previous_at + interval '{{ var("session_minutes") }}' minute
                then occurred_at
        end as start_at
    from gaps
),

-- The last start up to an event is the start of its session: named after it, a session keeps its id in every run.
sessions as (
    select
        event_id,
        visitor_id,
        max(start_at) over (
            partition by visitor_id order by occurred_at, event_id
            rows between unbounded preceding and current row
        ) as started_at
    from starts
)

select
    events.event_id,
    events.kind,
    events.occurred_at,
    {{ day_of('events.occurred_at') }} as event_date,
    events.visitor_id,
    events.customer_id,
    coalesce(
        events.session_id, sessions.visitor_id || '@' || cast(sessions.started_at as {{ dbt.type_string() }})
    ) as session_id,
    events.product_id,
    events.banner_id,
    events.placement_id,
    events.position,
    events.request_id,
    events.impression_id,
    events.order_id,
    events.page,
    events.quantity,
    events.amount,
    events.device,
    events.country,
    events.referrer,
    events.arm,
    events.policy,
    events.propensity,
    events.features
from events
left join sessions on events.event_id = sessions.event_id
