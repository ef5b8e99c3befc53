with current_rows as (
    {{ current_rows('product_properties', ['product_id', 'property', 'valid_from_at']) }}
)

select
    product_id,
    property,
    value,
    valid_from_at
from current_rows
