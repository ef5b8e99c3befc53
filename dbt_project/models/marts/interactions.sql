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
        cast(sum(cast(weight as decimal(28, 6))) as {{ double }}) as weight,
        {{ sum_of_units('decayed_units') }} as decayed_units,
        sum(dwell_microseconds) as dwell_microseconds,
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
    {{ rounded(
        'least(cast(decayed_units as ' ~ double ~ ') / 1000000000, ' ~ var('rating_cap') ~ ')'
    ) }} as rating,
    cast(dwell_microseconds as {{ double }}) / 1000000 as dwell_seconds,
    last_at
from totals
