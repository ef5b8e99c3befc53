{#
What visitors did with products on days on which they look like people: CTE "flagged" has the days of bots and shared
cookies, each once for however many reasons, and CTE "items" a row per product, session, visitor and day without them.
#}
{% macro clean_items() -%}
flagged as (
    select distinct visitor_id, activity_date from {{ ref('int_visitor_day_flags') }}
    where {{ in_window('activity_date') }}
),

items as (
    select
        interactions.event_date,
        interactions.visitor_id,
        interactions.session_id,
        interactions.product_id
    from {{ ref('int_interaction_days') }} as interactions
    left join flagged
        on interactions.visitor_id = flagged.visitor_id
        and interactions.event_date = flagged.activity_date
    where
        flagged.visitor_id is null
        and {{ in_window('interactions.event_date') }}
)
{%- endmacro %}
