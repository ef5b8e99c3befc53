{{ config(tags='catalogue') }}

select
    product_id,
    category_id,
    valid_from_at,
    valid_until_at
from {{ ref('int_product_categories') }}
