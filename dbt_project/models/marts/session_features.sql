{{ config(
    materialized=upserted(), unique_key=['visitor_id', 'session_id'], meta={'window_column': 'feature_at'}
) }}
{% set double = type_double() %}

with sessions as (
    select * from {{ ref('sessions') }}
    where {{ since_window('ended_at') }}
),

events as (
    select * from {{ ref('int_events_sessionised') }}
    where
        product_id is not null
        {%- if is_windowed() %}
        and event_date >= (select {{ day_of('min(started_at)') }} from sessions)
        and (visitor_id, session_id) in (select visitor_id, session_id from sessions)
        {%- endif %}
),

{{ last_products(var('session_products')) }},

interests as (
    select
        events.visitor_id,
        events.session_id,
        events.category_id,
        {{ fixed_point(
            'cast(' ~ sum_of_units(decayed_units(
                'events.implicit_weight',
                microseconds_between('events.occurred_at', 'sessions.ended_at'),
                var('session_half_life_minutes') ~ ' * 60000000.0',
                13
            )) ~ ' as ' ~ double ~ ') / 10000000000000', 9
        ) }} as interest
    from events
    inner join sessions
        on events.visitor_id = sessions.visitor_id
        and events.session_id = sessions.session_id
    where events.implicit_weight is not null and events.category_id is not null
    group by events.visitor_id, events.session_id, events.category_id
),

category_interests as (
    select visitor_id, session_id, {{ json_object('category_id', 'interest', 9, 'category_id') }} as category_interest
    from interests
    group by visitor_id, session_id
)

select
    sessions.session_id,
    sessions.visitor_id,
    sessions.ended_at as feature_at,
    {% for kind in ['view', 'cart', 'order', 'impression', 'click'] -%}
    cast(sessions.{{ kind }}_count as {{ double }}) as session_{{ kind }}_count,
    {% endfor -%}
    coalesce(last_products.last_products, '[]') as last_products,
    coalesce(category_interests.category_interest, '{}') as category_interest
from sessions
left join last_products
    on sessions.visitor_id = last_products.visitor_id
    and sessions.session_id = last_products.session_id
left join category_interests
    on sessions.visitor_id = category_interests.visitor_id
    and sessions.session_id = category_interests.session_id
