{{ config(materialized='incremental', partition_by='activity_date') }}

with visitor_days as (
    select visitor_id, activity_date from {{ ref('int_visitor_days') }}
    where {{ in_window('activity_date') }}
),

category_days as (
    select * from {{ ref('int_visitor_category_days') }}
    where {{ in_window('activity_date', before=364) }}
),

ratings as (
    select
        visitor_days.visitor_id,
        visitor_days.activity_date,
        category_days.category_id,
        -- 13 digits: what is a year old counts 2^-26 of its weight, and its share has 6 digits.
        cast({{ sum_of_units(decayed_units(
            'category_days.weight',
            dbt.datediff('category_days.activity_date', 'visitor_days.activity_date', 'day'),
            var('half_life_days'),
            13
        )) }} as {{ type_double() }}) as rating
    from visitor_days
    inner join category_days
        on visitor_days.visitor_id = category_days.visitor_id
        and category_days.activity_date <= visitor_days.activity_date
        and {{ days_after('category_days.activity_date', 365) }} > visitor_days.activity_date
    group by visitor_days.visitor_id, visitor_days.activity_date, category_days.category_id
),

shares as (
    select
        visitor_id,
        activity_date,
        category_id,
        {{ rounded_share('rating / nullif(sum(rating) over (partition by visitor_id, activity_date), 0)') }} as share
    from ratings
),

ranked as (
    select
        shares.*,
        row_number() over (partition by visitor_id, activity_date order by share desc, category_id) as share_rank
    from shares
    where share > 0
)

select
    visitor_id,
    activity_date,
    {{ share_object('category_id', 'share') }} as category_affinity
from ranked
where share_rank <= {{ var('category_limit') }}
group by visitor_id, activity_date
