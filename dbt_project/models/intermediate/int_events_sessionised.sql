{{ config(materialized='incremental', partition_by='event_date') }}

with events as (
    select * from {{ ref('stg_events') }}
    -- What was sent to a visitor, and what became of it, is no part of a visit: see int_notifications_answered.
    where {{ in_window('occurred_at') }} and kind not in ({{ notification_kinds() }})
),

cut_here as (
    select
        event_id,
        visitor_id,
        occurred_at,
        cast(null as timestamp) as session_started_at
    from events
    where session_id is null
    {% if is_windowed() -%}
    union all
    -- A session may reach over midnight: what could go on in the window starts where it started.
    select event_id, visitor_id, occurred_at, session_started_at
    from {{ this }}
    where
        session_started_at is not null
        and occurred_at > cast({{ window_day('from_date') }} as timestamp) - interval '{{ var("session_minutes") }}' minute
        and {{ before_window('occurred_at') }}
    {%- endif %}
),

gaps as (
    select
        cut_here.*,
        lag(occurred_at) over (partition by visitor_id order by occurred_at, event_id) as previous_at
    from cut_here
),

starts as (
    select
        event_id,
        visitor_id,
        occurred_at,
        case
            when session_started_at is not null then session_started_at
            when previous_at is null or occurred_at >= previous_at + interval '{{ var("session_minutes") }}' minute
                then occurred_at
        end as start_at
    from gaps
),

-- The last start up to an event is the start of its session: named after it, a session keeps its id in every run.
sessions as (
    select
        event_id,
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
        events.session_id, events.visitor_id || '@' || cast(sessions.started_at as {{ dbt.type_string() }})
    ) as session_id,
    sessions.started_at as session_started_at,
    events.product_id,
    categories.category_id,
    case when events.product_id is not null then {{ implicit_weight('events.kind') }} end as implicit_weight,
    {% for column in [
        'banner_id', 'placement_id', 'position', 'request_id', 'impression_id', 'order_id', 'page', 'quantity',
        'amount', 'device', 'country', 'referrer', 'arm', 'policy', 'propensity', 'features'
    ] -%}
    events.{{ column }}{{ ',' if not loop.last }}
    {% endfor %}
from events
left join sessions on events.event_id = sessions.event_id
left join {{ ref('int_product_categories') }} as categories
    on events.product_id = categories.product_id
    and events.occurred_at >= categories.valid_from_at
    and events.occurred_at < categories.valid_until_at
