with current_rows as (
    {{ current_rows('banner_products', ['banner_id', 'creative_id', 'product_id']) }}
)

select
    banner_id,
    creative_id,
    product_id
from current_rows
