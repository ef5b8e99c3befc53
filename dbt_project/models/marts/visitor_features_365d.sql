{{ config(materialized='incremental', partition_by='feature_at', meta={'days_late': 1}) }}
{% set double = type_double() %}
{% set columns = ['last_seen_at', 'order_count', 'order_amount', 'impression_count', 'click_count'] %}

with {{ changed_days(365, columns) }},

totals as (
    select
        visitor_id,
        activity_date,
        max(last_seen_at) over trailing_365d as last_seen_at,
        cast(coalesce(sum(order_count) over trailing_365d, 0) as {{ double }}) as order_count_365d,
        cast(coalesce(sum(cast(order_amount as decimal(18, 6))) over trailing_365d, 0) as {{ double }}) as order_amount_365d,
        cast(coalesce(sum(impression_count) over trailing_365d, 0) as {{ double }}) as visitor_impression_count_365d,
        cast(coalesce(sum(click_count) over trailing_365d, 0) as {{ double }}) as visitor_click_count_365d
    from days
    window trailing_365d as (partition by visitor_id order by activity_date {{ trailing(365) }})
)

select
    totals.visitor_id,
    {{ next_midnight('totals.activity_date') }} as feature_at,
    totals.last_seen_at,
    totals.order_count_365d,
    totals.order_amount_365d,
    totals.visitor_impression_count_365d,
    totals.visitor_click_count_365d,
    coalesce(affinities.category_affinity, '{}') as category_affinity
from totals
-- Shares stay as they were on the last active day: until something happens all ratings halve alike.
left join {{ ref('int_visitor_affinities') }} as affinities
    on totals.visitor_id = affinities.visitor_id
    and {{ day_of('totals.last_seen_at') }} = affinities.activity_date
    and {{ in_window('affinities.activity_date', before=364) }}
where {{ in_window('totals.activity_date') }}
