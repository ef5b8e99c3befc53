{% set by_rating -%}
partition by days.visitor_id, days.activity_date order by ratings.rating desc, ratings.category_id
{%- endset %}

with category_days as (
    select
        visitor_id,
        category_id,
        activity_date,
        weight,
        min(activity_date) over (partition by visitor_id) as first_date
    from {{ ref('int_visitor_category_days') }}
),

-- Shares do not change when all ratings are scaled alike, so rather than decaying old ratings day by day,
-- later ones grow by as much: one running sum per category then holds for every day after it.
grown as (
    select
        visitor_id,
        category_id,
        activity_date,
        weight * power(
            cast(2 as {{ type_double() }}),
            {{ dbt.datediff('first_date', 'activity_date', 'day') }}
                / cast({{ var('half_life_days') }} as {{ type_double() }})
        ) as weight
    from category_days
),

ratings as (
    select
        visitor_id,
        category_id,
        activity_date as from_date,
        lead(activity_date) over (partition by visitor_id, category_id order by activity_date) as until_date,
        sum(weight) over (
            partition by visitor_id, category_id order by activity_date
            rows between unbounded preceding and current row
        ) as rating
    from grown
),

-- Both windows share one order, so that each engine sorts once.
ranked as (
    select
        days.visitor_id,
        days.activity_date,
        ratings.category_id,
        ratings.rating / sum(ratings.rating) over (
            {{ by_rating }} rows between unbounded preceding and unbounded following
        ) as share,
        row_number() over ({{ by_rating }}) as share_rank
    from {{ ref('int_visitor_days') }} as days
    inner join ratings
        on days.visitor_id = ratings.visitor_id
        and days.activity_date >= ratings.from_date
        and days.activity_date < coalesce(ratings.until_date, cast('9999-12-31' as date))
),

shares as (
    select visitor_id, activity_date, category_id, {{ rounded_share('share') }} as share
    from ranked
    where share_rank <= {{ var('category_limit') }}
)

select
    visitor_id,
    activity_date,
    {{ share_object('category_id', 'share') }} as category_affinity
from shares
where share > 0
group by visitor_id, activity_date
