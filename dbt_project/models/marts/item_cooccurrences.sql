{% set windows = [7, 28] %}

with sessions as (
    select * from {{ ref('int_item_session_days') }}
),

newest as (
    select
        max(event_date) as as_of_date,
        {% for days in windows -%}
        cast({{ dbt.dateadd('day', -days, 'max(event_date)') }} as date) as before_{{ days }}d{{ ',' if not loop.last }}
        {% endfor %}
    from sessions
),

totals as (
    select
        newest.as_of_date,
        {% for days in windows -%}
        sum(case when sessions.event_date > newest.before_{{ days }}d then sessions.session_count else 0 end)
            as session_count_{{ days }}d{{ ',' if not loop.last }}
        {% endfor %}
    from sessions
    cross join newest
    group by newest.as_of_date
),

-- A product paired with itself counts its sessions.
pairs as (
    select
        pair_days.first_product_id,
        pair_days.second_product_id,
        {% for days in windows -%}
        sum(case when pair_days.event_date > newest.before_{{ days }}d then pair_days.session_count else 0 end)
            as session_count_{{ days }}d{{ ',' if not loop.last }}
        {% endfor %}
    from {{ ref('int_item_pair_days') }} as pair_days
    cross join newest
    where pair_days.event_date > newest.before_28d
    group by pair_days.first_product_id, pair_days.second_product_id
    having sum(pair_days.session_count) >= {{ var('cooccurrence_minimum') }}
),

both_ways as (
    select first_product_id as product_id, second_product_id as other_product_id, session_count_7d, session_count_28d
    from pairs
    where first_product_id <> second_product_id
    union all
    select second_product_id as product_id, first_product_id as other_product_id, session_count_7d, session_count_28d
    from pairs
    where first_product_id <> second_product_id
)

select
    both_ways.product_id,
    both_ways.other_product_id,
    totals.as_of_date,
    {% for days in windows -%}
    {%- set both = 'cast(both_ways.session_count_' ~ days ~ 'd as ' ~ type_double() ~ ')' -%}
    {%- set product = 'products.session_count_' ~ days ~ 'd', 'others.session_count_' ~ days ~ 'd' -%}
    {%- set square = 'cast(' ~ product[0] ~ ' as ' ~ type_double() ~ ') * ' ~ product[1] -%}
    cast(both_ways.session_count_{{ days }}d as bigint) as session_count_{{ days }}d,
    coalesce({{ rounded(both ~ ' / nullif(sqrt(' ~ square ~ '), 0)') }}, 0) as cosine_{{ days }}d,
    coalesce({{ rounded(both ~ ' * totals.session_count_' ~ days ~ 'd / nullif(' ~ square ~ ', 0)') }}, 0)
        as lift_{{ days }}d{{ ',' if not loop.last }}
    {% endfor %}
from both_ways
inner join pairs as products
    on both_ways.product_id = products.first_product_id
    and both_ways.product_id = products.second_product_id
inner join pairs as others
    on both_ways.other_product_id = others.first_product_id
    and both_ways.other_product_id = others.second_product_id
cross join totals
