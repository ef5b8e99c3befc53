with current_rows as (
    {{ current_rows('categories', ['category_id']) }}
)

select
    category_id,
    parent_id,
    title
from current_rows
