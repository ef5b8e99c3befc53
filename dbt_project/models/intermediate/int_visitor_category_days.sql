{{ config(materialized='incremental', partition_by='activity_date') }}

-- Counted by kind and weighed afterwards: whole numbers add up alike in any order.
select
    visitor_id,
    category_id,
    event_date as activity_date,
    {% for kind, weight in var('implicit_weights').items() -%}
    {{ '+ ' if not loop.first }}count(case when kind = '{{ kind }}' then 1 end) * cast({{ weight }} as {{ type_double() }})
    {% endfor %} as weight
from {{ ref('int_events_sessionised') }}
where
    implicit_weight is not null
    and category_id is not null
    and {{ in_window('event_date') }}
group by visitor_id, category_id, event_date
