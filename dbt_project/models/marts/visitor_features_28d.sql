{{ config(materialized='incremental', partition_by='feature_at', meta={'days_late': 1}) }}
{% set counts = ['view_count', 'cart_count', 'order_count'] %}

with {{ changed_days(28, ['last_seen_at'] + counts) }},

totals as (
    select
        visitor_id,
        activity_date,
        {% for count in counts -%}
        cast(coalesce(sum({{ count }}) over trailing_28d, 0) as {{ type_double() }}) as {{ count }}_28d,
        {% endfor -%}
        -- An exit has seen nobody.
        cast(count(last_seen_at) over trailing_28d as {{ type_double() }}) as active_day_count_28d
    from days
    window trailing_28d as (partition by visitor_id order by activity_date {{ trailing(28) }})
)

select
    visitor_id,
    {{ next_midnight('activity_date') }} as feature_at,
    view_count_28d,
    cart_count_28d,
    order_count_28d,
    active_day_count_28d
from totals
where {{ in_window('activity_date') }}
