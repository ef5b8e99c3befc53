with activity as (
    select
        product_id,
        sum(view_count) as view_count,
        sum(cart_count) as cart_count,
        sum(order_count) as order_count
    from {{ ref('int_product_days') }}
    group by product_id
)

select
    products.product_id,
    products.category_id,
    products.title,
    products.price,
    products.is_available,
    cast(coalesce(activity.view_count, 0) as bigint) as view_count,
    cast(coalesce(activity.cart_count, 0) as bigint) as cart_count,
    cast(coalesce(activity.order_count, 0) as bigint) as order_count
from {{ ref('int_products') }} as products
left join activity on products.product_id = activity.product_id
