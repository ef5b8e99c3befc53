{#
Visitor and day rows whose trailing windows of so many days change: active days as int_visitor_days has them, and days
on which an active day leaves the window, with null in every column. A window build has only visitors with such a day in
it, and of them all the days that the window reaches back to. Makes the CTEs active_days, exits, changes and days.
#}
{% macro changed_days(length, columns) -%}
active_days as (
    select visitor_id, activity_date, {{ columns | join(', ') }}
    from {{ ref('int_visitor_days') }}
    where {{ in_window('activity_date', before=length) }}
),

exits as (
    select visitor_id, {{ days_after('activity_date', length) }} as activity_date
    from active_days
    where {{ days_after('activity_date', length) }} <= (select max(activity_date) from {{ ref('int_visitor_days') }})
),

changes as (
    select visitor_id, activity_date, {{ columns | join(', ') }} from active_days
    union all
    select
        exits.visitor_id,
        exits.activity_date,
        {% for column in columns -%} null as {{ column }}{{ ', ' if not loop.last }} {%- endfor %}
    from exits
    left join active_days
        on exits.visitor_id = active_days.visitor_id
        and exits.activity_date = active_days.activity_date
    where active_days.visitor_id is null
),

days as (
    select * from changes
    {%- if is_windowed() %}
    where visitor_id in (select visitor_id from changes where {{ in_window('activity_date') }})
    {%- endif %}
)
{%- endmacro %}

{#
Last products of each session as a JSON list, newest first, from a CTE "events" of events that concern a product. Makes
the CTEs recencies, products, long_sessions, places and last_products.
#}
{% macro last_products(kept) -%}
recencies as (
    select
        visitor_id,
        session_id,
        product_id,
        row_number() over (
            partition by visitor_id, session_id order by occurred_at desc, event_id desc
        ) as recency
    from events
),

products as (
    select visitor_id, session_id, product_id, min(recency) as recency
    from recencies
    group by visitor_id, session_id, product_id
),

-- Few sessions have more events than products are kept; only in those must products be counted off.
long_sessions as (
    select distinct visitor_id, session_id from products where recency > {{ kept }}
),

places as (
    select
        products.*,
        row_number() over (partition by products.visitor_id, products.session_id order by products.recency) as place
    from products
    inner join long_sessions
        on products.visitor_id = long_sessions.visitor_id
        and products.session_id = long_sessions.session_id
),

last_products as (
    select visitor_id, session_id, {{ json_list('product_id', order='recency') }} as last_products
    from (
        select visitor_id, session_id, product_id, recency from places where place <= {{ kept }}
        union all
        select products.visitor_id, products.session_id, products.product_id, products.recency
        from products
        left join long_sessions
            on products.visitor_id = long_sessions.visitor_id
            and products.session_id = long_sessions.session_id
        where long_sessions.session_id is null
    ) as kept_products
    group by visitor_id, session_id
)
{%- endmacro %}
