-- What is dated after the newest event is not so yet. Without any event only what held always is current.
with newest as (
    select coalesce(max(last_seen_at), {{ start_of_time() }}) as happened_at
    from {{ ref('int_visitor_days') }}
    where activity_date = (select max(activity_date) from {{ ref('int_visitor_days') }})
),

products as (
    select * from {{ ref('stg_products') }}
),

categories as (
    select periods.product_id, periods.category_id
    from {{ ref('int_product_categories') }} as periods
    inner join newest
        on newest.happened_at >= periods.valid_from_at
        and newest.happened_at < periods.valid_until_at
),

availabilities as (
    select
        properties.product_id,
        properties.value,
        row_number() over (partition by properties.product_id order by properties.valid_from_at desc) as recency_rank
    from {{ ref('stg_product_properties') }} as properties
    inner join newest on properties.valid_from_at <= newest.happened_at
    where properties.property = 'is_available'
),

known_ids as (
    select product_id from products
    union
    select product_id from {{ ref('stg_product_properties') }}
    union
    select product_id from {{ ref('int_product_days') }}
)

select
    known_ids.product_id,
    categories.category_id,
    products.title,
    products.price,
    coalesce(products.is_available, lower(availabilities.value) in ('1', 'true')) as is_available
from known_ids
left join products on known_ids.product_id = products.product_id
left join categories on known_ids.product_id = categories.product_id
left join availabilities
    on known_ids.product_id = availabilities.product_id
    and availabilities.recency_rank = 1
