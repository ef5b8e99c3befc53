with current_rows as (
    {{ current_rows('products', ['product_id']) }}
)

select
    product_id,
    category_id,
    title,
    price,
    is_available
from current_rows
