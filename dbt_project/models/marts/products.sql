with activity as (
    select
        product_id,
        count(case when kind in ('page_view', 'product_view') then 1 end) as view_count,
        count(case when kind = 'order' then 1 end) as order_count
    from {{ ref('int_events_sessionised') }}
    where product_id is not null
    group by product_id
)

select
    products.product_id,
    products.category_id,
    products.title,
    products.price,
    products.is_available,
    coalesce(activity.view_count, 0) as view_count,
    coalesce(activity.order_count, 0) as order_count
from {{ ref('int_products') }} as products
left join activity on products.product_id = activity.product_id
