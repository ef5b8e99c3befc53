{#
What a visitor did in a session strictly before each moment of a CTE "begun" of visitors, moments (impressed_at), the
session and its start. Banners that were merely shown count for nothing: those of the same page may not be known yet.
Interest is as of the last event that showed any. Makes the CTEs events, counts, interests and category_interests.
#}
{% macro session_so_far(kept) -%}
events as (
    select
        begun.visitor_id,
        begun.impressed_at,
        begun.started_at,
        events.kind,
        events.product_id,
        events.occurred_at,
        case when events.implicit_weight is not null then events.category_id end as category_id,
        events.implicit_weight
    from begun
    inner join {{ ref('int_events_sessionised') }} as events
        on begun.visitor_id = events.visitor_id
        and begun.session_id = events.session_id
        and begun.impressed_at > events.occurred_at
    where
        (events.product_id is not null or events.kind in ('page_view', 'product_view', 'cart', 'order'))
        {%- if is_windowed() %}
        and events.event_date >= (select {{ day_of('min(started_at)') }} from begun)
        {%- endif %}
),

counts as (
    select
        visitor_id,
        impressed_at,
        min(started_at) as session_started_at,
        count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
        count(case when kind = 'cart' then 1 end) as cart_count,
        count(case when kind = 'order' then 1 end) as order_count,
        least(count(distinct product_id), {{ kept }}) as product_count,
        max(case when category_id is not null then occurred_at end) as interested_at
    from events
    group by visitor_id, impressed_at
),

interests as (
    select
        events.visitor_id,
        events.impressed_at,
        events.category_id,
        max(events.occurred_at) = max(counts.interested_at) as is_last,
        {{ fixed_point(
            'cast(' ~ sum_of_units(decayed_units(
                'events.implicit_weight',
                microseconds_between('events.occurred_at', 'counts.interested_at'),
                var('session_half_life_minutes') ~ ' * 60000000.0',
                13
            )) ~ ' as ' ~ type_double() ~ ') / 10000000000000', 9
        ) }} as interest
    from events
    inner join counts
        on events.visitor_id = counts.visitor_id
        and events.impressed_at = counts.impressed_at
    where events.category_id is not null
    group by events.visitor_id, events.impressed_at, events.category_id
),

category_interests as (
    select
        visitor_id,
        impressed_at,
        min(case when is_last then category_id end) as last_category,
        {{ json_object('category_id', 'interest', 9, 'category_id') }} as category_interest
    from interests
    group by visitor_id, impressed_at
)
{%- endmacro %}
