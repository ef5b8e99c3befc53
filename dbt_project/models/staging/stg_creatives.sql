with current_rows as (
    {{ current_rows('creatives', ['creative_id']) }}
)

select
    creative_id,
    banner_id,
    title
from current_rows
