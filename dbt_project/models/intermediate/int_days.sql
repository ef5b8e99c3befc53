{{ config(materialized='view') }}

-- Numbers 0 to 99,999 from their decimal digits, 273 years of days: no target's own series function needed.
with digits as (
    {% for digit in range(10) -%}
    select {{ digit }} as digit{{ ' union all' if not loop.last }}
    {% endfor %}
),

numbers as (
    select units.digit + 10 * tens.digit + 100 * hundreds.digit + 1000 * thousands.digit + 10000 * myriads.digit as n
    from digits as units
    cross join digits as tens
    cross join digits as hundreds
    cross join digits as thousands
    cross join digits as myriads
),

bounds as (
    select min(activity_date) as first_date, max(activity_date) as last_date
    from {{ ref('int_visitor_days') }}
)

select cast({{ dbt.dateadd('day', 'numbers.n', 'bounds.first_date') }} as date) as calendar_date
from bounds
inner join numbers on numbers.n <= {{ dbt.datediff('bounds.first_date', 'bounds.last_date', 'day') }}
