{{ config(materialized='view') }}

with rules as (
    select 1 as rule_rank, 'flagged_visitor_day' as rule, 'A bot or a shared cookie that day' as reason
    union all
    select 2, 'single_event_visitor', 'The visitor has one event in all, and so no taste to compare'
    union all
    select 3, 'once_seen_product', 'The product has one event in all, and so no second visitor'
),

drops as (
    select
        drop_rule,
        sum(event_count) as event_count,
        count(distinct visitor_id) as visitor_count,
        count(distinct product_id) as product_count
    from {{ ref('int_interactions_judged') }}
    where drop_rule is not null
    group by drop_rule
)

select
    rules.rule,
    cast(rules.rule_rank as bigint) as rule_rank,
    rules.reason,
    cast(coalesce(drops.event_count, 0) as bigint) as event_count,
    cast(coalesce(drops.visitor_count, 0) as bigint) as visitor_count,
    cast(coalesce(drops.product_count, 0) as bigint) as product_count
from rules
left join drops on rules.rule = drops.drop_rule
