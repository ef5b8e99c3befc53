{{ config(tags='catalogue') }}

with products as (
    select product_id, category_id
    from {{ ref('stg_products') }}
    where category_id is not null
),

dated as (
    select
        product_id,
        value as category_id,
        valid_from_at,
        lead(valid_from_at) over (partition by product_id order by valid_from_at) as next_valid_from_at
    from {{ ref('stg_product_properties') }}
    where property = 'category_id'
),

first_dated as (
    select product_id, min(valid_from_at) as valid_from_at
    from dated
    group by product_id
)

select
    product_id,
    category_id,
    valid_from_at,
    coalesce(next_valid_from_at, {{ end_of_time() }}) as valid_until_at
from dated
union all
-- Before its first dated category, and where it has none, a product's category is the catalogue's.
select
    products.product_id,
    products.category_id,
    {{ start_of_time() }} as valid_from_at,
    coalesce(first_dated.valid_from_at, {{ end_of_time() }}) as valid_until_at
from products
left join first_dated on products.product_id = first_dated.product_id
where coalesce(first_dated.valid_from_at, {{ end_of_time() }}) > {{ start_of_time() }}
