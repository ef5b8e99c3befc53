{# What the orders of int_orders_attributed came to, by the column named; an order of several lines counts once. #}
{% macro attributed_orders_by(column) -%}
    select
        {{ column }},
        count(*) as attributed_order_count,
        cast(sum(order_line_count) as bigint) as attributed_order_line_count,
        cast(sum(order_amount) as {{ type_double() }}) as attributed_order_amount
    from (
        select
            {{ column }},
            count(*) as order_line_count,
            sum(cast(coalesce(amount, 0) as decimal(18, 4))) as order_amount
        from {{ ref('int_orders_attributed') }}
        group by {{ column }}, visitor_id, order_id
    ) as orders
    group by {{ column }}
{%- endmacro %}
