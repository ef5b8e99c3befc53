with products as (
    select * from {{ ref('stg_products') }}
),

properties as (
    select
        product_id,
        property,
        value,
        row_number() over (partition by product_id, property order by valid_from_at desc) as recency_rank
    from {{ ref('stg_product_properties') }}
    where property in ('category_id', 'is_available')
),

latest_properties as (
    select
        product_id,
        max(case when property = 'category_id' then value end) as category_id,
        max(case when property = 'is_available' then value end) as is_available
    from properties
    where recency_rank = 1
    group by product_id
),

known_ids as (
    select product_id from products
    union
    select product_id from {{ ref('stg_product_properties') }}
    union
    select product_id from {{ ref('stg_events') }}
    where product_id is not null
)

select
    known_ids.product_id,
    coalesce(products.category_id, latest_properties.category_id) as category_id,
    products.title,
    products.price,
    coalesce(products.is_available, lower(latest_properties.is_available) in ('1', 'true')) as is_available
from known_ids
left join products on known_ids.product_id = products.product_id
left join latest_properties on known_ids.product_id = latest_properties.product_id
