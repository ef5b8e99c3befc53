{{ config(
    materialized=upserted(), unique_key='impression_id', meta={'window_column': 'impressed_at'}
) }}
{% set double = type_double() %}

with impressions as (
    select impression_id, visitor_id, impressed_at from {{ ref('int_impressions_clean') }}
    where {{ since_window('impressed_date') }}
),

-- Banners of one slate share their moment.
moments as (
    select distinct visitor_id, impressed_at from impressions
),

-- A session that is under way had an event within less than a day.
recent as (
    select
        visitor_id,
        session_id,
        occurred_at,
        row_number() over (partition by visitor_id, occurred_at order by event_id desc) as recency
    from {{ ref('int_events_sessionised') }}
    where
        visitor_id in (select visitor_id from moments)
        {%- if is_windowed() %}
        and event_date >= {{ window_day('from_date', -1) }}
        {%- endif %}
),

before as (
    select
        visitor_id,
        occurred_at as impressed_at,
        lag(session_id) over (partition by visitor_id order by occurred_at) as session_id,
        lag(occurred_at) over (partition by visitor_id order by occurred_at) as ended_at
    from recent
    where recency = 1
),

begun as (
    select moments.visitor_id, moments.impressed_at, before.session_id, sessions.started_at
    from moments
    inner join before
        on moments.visitor_id = before.visitor_id
        and moments.impressed_at = before.impressed_at
        and moments.impressed_at < before.ended_at + interval '{{ var("session_minutes") }}' minute
    inner join {{ ref('sessions') }} as sessions
        on before.visitor_id = sessions.visitor_id
        and before.session_id = sessions.session_id
),

{{ session_so_far(var('session_products')) }}

select
    impressions.impression_id,
    impressions.visitor_id,
    impressions.impressed_at,
    counts.session_started_at,
    {% for name in ['view', 'cart', 'order', 'product'] -%}
    cast(counts.{{ name }}_count as {{ double }}) as session_{{ name }}_count,
    {% endfor -%}
    category_interests.last_category,
    case when counts.visitor_id is not null then coalesce(category_interests.category_interest, '{}') end
        as category_interest
from impressions
left join counts
    on impressions.visitor_id = counts.visitor_id
    and impressions.impressed_at = counts.impressed_at
left join category_interests
    on impressions.visitor_id = category_interests.visitor_id
    and impressions.impressed_at = category_interests.impressed_at
