{{ config(
    materialized=upserted(), unique_key=['visitor_id', 'session_id'], meta={'window_column': 'ended_at'}
) }}

with recent as (
    select visitor_id, session_id, occurred_at, kind, amount
    from {{ ref('int_events_sessionised') }}
    where {{ since_window('event_date') }}
),

{% if is_windowed() -%}
begun_before as (
    select known.visitor_id, known.session_id, known.started_at
    from {{ this }} as known
    inner join (select distinct visitor_id, session_id from recent) as seen
        on known.visitor_id = seen.visitor_id
        and known.session_id = seen.session_id
    where {{ before_window('known.started_at') }}
),

{% endif -%}
events as (
    select * from recent
    {% if is_windowed() -%}
    union all
    select events.visitor_id, events.session_id, events.occurred_at, events.kind, events.amount
    from {{ ref('int_events_sessionised') }} as events
    inner join begun_before
        on events.visitor_id = begun_before.visitor_id
        and events.session_id = begun_before.session_id
    where
        {{ before_window('events.event_date') }}
        and events.event_date >= (select {{ day_of('min(started_at)') }} from begun_before)
    {%- endif %}
),

order_amounts as (
    select visitor_id, session_id, {{ stable_sum('amount') }} as order_amount
    from events
    where kind = 'order'
    group by visitor_id, session_id
),

sessions as (
    select
        session_id,
        visitor_id,
        min(occurred_at) as started_at,
        max(occurred_at) as ended_at,
        count(*) as event_count,
        count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
        count(case when kind = 'cart' then 1 end) as cart_count,
        count(case when kind = 'order' then 1 end) as order_count,
        count(case when kind = 'impression' then 1 end) as impression_count,
        count(case when kind = 'click' then 1 end) as click_count
    from events
    group by session_id, visitor_id
)

select sessions.*, coalesce(order_amounts.order_amount, 0) as order_amount
from sessions
left join order_amounts
    on sessions.visitor_id = order_amounts.visitor_id
    and sessions.session_id = order_amounts.session_id
