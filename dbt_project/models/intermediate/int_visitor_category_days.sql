with ratings as (
    select
        events.visitor_id,
        products.category_id,
        events.event_date as activity_date,
        case events.kind
            {% for kind, weight in var('implicit_weights').items() -%}
            when '{{ kind }}' then cast({{ weight }} as {{ type_double() }})
            {% endfor %}
        end as weight
    from {{ ref('int_events_sessionised') }} as events
    inner join {{ ref('int_products') }} as products on events.product_id = products.product_id
    where products.category_id is not null
)

select
    visitor_id,
    category_id,
    activity_date,
    sum(weight) as weight
from ratings
where weight is not null
group by visitor_id, category_id, activity_date
