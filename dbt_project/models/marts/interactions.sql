{{ config(materialized='view') }}

{% set double = type_double() %}

with newest as (
    select max(event_date) as as_of_date
    from {{ ref('int_interaction_days') }}
),

kept as (
    select
        interactions.*,
        newest.as_of_date,
        {{ decayed_units(
            'interactions.weight',
            dbt.datediff('interactions.event_date', 'newest.as_of_date', 'day'),
            var('half_life_days'),
            9
        ) }} as decayed_units
    from {{ ref('int_interactions_judged') }} as interactions
    cross join newest
    where interactions.drop_rule is null
),

totals as (
    select
        visitor_id,
        product_id,
        as_of_date,
        sum(event_count) as event_count,
        sum(view_count) as view_count,
        sum(cart_count) as cart_count,
        sum(order_count) as order_count,
        sum(weight) as weight,
        sum(decayed_units) as decayed_units,
        max(last_at) as last_at
    from kept
    group by visitor_id, product_id, as_of_date
)

select
    visitor_id,
    product_id,
    as_of_date,
    cast(event_count as bigint) as event_count,
    cast(view_count as bigint) as view_count,
    cast(cart_count as bigint) as cart_count,
    cast(order_count as bigint) as order_count,
    weight,
    -- Beyond the cap all of a pair's events count less, each by the same share.
    {{ rounded(
        'cast(decayed_units as ' ~ double ~ ') / 1000000000 * least(1, ' ~ var('rating_cap') ~ ' / weight)'
    ) }} as rating,
    last_at
from totals
