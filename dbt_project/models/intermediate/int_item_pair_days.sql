{{ config(materialized='incremental', partition_by='event_date') }}

{% set limit = var('session_item_limit') %}

with {{ clean_items() }},

large_sessions as (
    select event_date, visitor_id, session_id
    from items
    group by event_date, visitor_id, session_id
    having count(*) > {{ limit }}
),

-- A sample stands for a large session; drawn by hash it favours no product and is the same in every run.
sampled as (
    select
        items.*,
        row_number() over (
            partition by items.event_date, items.visitor_id, items.session_id
            order by {{ dbt.hash("items.session_id || ' ' || items.product_id") }}, items.product_id
        ) as sample_rank
    from items
    inner join large_sessions
        on items.event_date = large_sessions.event_date
        and items.visitor_id = large_sessions.visitor_id
        and items.session_id = large_sessions.session_id
),

kept as (
    select items.event_date, items.visitor_id, items.session_id, items.product_id
    from items
    left join large_sessions
        on items.event_date = large_sessions.event_date
        and items.visitor_id = large_sessions.visitor_id
        and items.session_id = large_sessions.session_id
    where large_sessions.session_id is null
    union all
    select event_date, visitor_id, session_id, product_id
    from sampled
    where sample_rank <= {{ limit }}
)

select
    first_items.event_date,
    first_items.product_id as first_product_id,
    second_items.product_id as second_product_id,
    count(*) as session_count
from kept as first_items
inner join kept as second_items
    on first_items.event_date = second_items.event_date
    and first_items.visitor_id = second_items.visitor_id
    and first_items.session_id = second_items.session_id
    and first_items.product_id <= second_items.product_id
group by first_items.event_date, first_items.product_id, second_items.product_id
