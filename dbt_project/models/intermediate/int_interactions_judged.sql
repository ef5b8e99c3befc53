{{ config(materialized='view') }}

with flagged as (
    select distinct visitor_id, activity_date from {{ ref('int_visitor_day_flags') }}
),

interactions as (
    select
        days.*,
        flagged.visitor_id is not null as is_flagged
    from {{ ref('int_interaction_days') }} as days
    left join flagged
        on days.visitor_id = flagged.visitor_id
        and days.event_date = flagged.activity_date
    where days.weight > 0
),

single_event_visitors as (
    select visitor_id
    from interactions
    where not is_flagged
    group by visitor_id
    having sum(event_count) = 1
),

once_seen_products as (
    select product_id
    from interactions
    where not is_flagged
    group by product_id
    having sum(event_count) = 1
)

-- The first rule that fits, so that each event is dropped once.
select
    interactions.*,
    case
        when interactions.is_flagged then 'flagged_visitor_day'
        when single_event_visitors.visitor_id is not null then 'single_event_visitor'
        when once_seen_products.product_id is not null then 'once_seen_product'
    end as drop_rule
from interactions
left join single_event_visitors on interactions.visitor_id = single_event_visitors.visitor_id
left join once_seen_products on interactions.product_id = once_seen_products.product_id
