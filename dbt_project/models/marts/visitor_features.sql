{% set double = type_double() %}

with days as (
    select
        int_visitor_days.*,
        affinities.category_affinity
    from {{ ref('int_visitor_days') }} as int_visitor_days
    left join {{ ref('int_visitor_affinities') }} as affinities
        on int_visitor_days.visitor_id = affinities.visitor_id
        and int_visitor_days.activity_date = affinities.activity_date
)

select
    visitor_id,
    {{ next_midnight('activity_date') }} as feature_at,
    last_seen_at,
    cast(sum(view_count) over trailing_28d as {{ double }}) as view_count_28d,
    cast(sum(cart_count) over trailing_28d as {{ double }}) as cart_count_28d,
    cast(sum(order_count) over trailing_28d as {{ double }}) as order_count_28d,
    cast(sum(order_count) over trailing_365d as {{ double }}) as order_count_365d,
    cast(sum(order_amount) over trailing_365d as {{ double }}) as order_amount_365d,
    cast(count(*) over trailing_28d as {{ double }}) as active_day_count_28d,
    cast(sum(impression_count) over trailing_365d as {{ double }}) as visitor_impression_count_365d,
    cast(sum(click_count) over trailing_365d as {{ double }}) as visitor_click_count_365d,
    coalesce(category_affinity, '{}') as category_affinity
from days
window
    trailing_28d as (partition by visitor_id order by activity_date {{ trailing(28) }}),
    trailing_365d as (partition by visitor_id order by activity_date {{ trailing(365) }})
