with converted as (
    select distinct impression_id from {{ ref('int_orders_attributed') }}
),

counts as (
    select
        impressions.visitor_id,
        count(*) as impression_count,
        count(case when impressions.is_clicked then 1 end) as click_count,
        count(converted.impression_id) as conversion_count
    from {{ ref('int_impressions_clean') }} as impressions
    left join converted on impressions.impression_id = converted.impression_id
    group by impressions.visitor_id
)

select
    counts.visitor_id,
    segments.segment,
    cast(counts.impression_count as bigint) as impression_count,
    cast(counts.click_count as bigint) as click_count,
    cast(counts.conversion_count as bigint) as conversion_count
from counts
left join {{ ref('visitor_segments') }} as segments on counts.visitor_id = segments.visitor_id
