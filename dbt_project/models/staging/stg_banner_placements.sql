with current_rows as (
    {{ current_rows('banner_placements', ['banner_id', 'placement_id']) }}
)

select
    banner_id,
    placement_id
from current_rows
