{{ config(materialized='view') }}

select *
from {{ ref('int_impressions_labelled') }} as impressions
where not exists (
    select 1
    from {{ ref('int_visitor_day_flags') }} as flags
    where
        flags.visitor_id = impressions.visitor_id
        and flags.activity_date = impressions.impressed_date
)
