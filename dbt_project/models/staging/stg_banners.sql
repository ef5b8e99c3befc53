with current_rows as (
    {{ current_rows('banners', ['banner_id']) }}
)

select
    banner_id,
    campaign_id,
    title,
    landing_category_id,
    created_at
from current_rows
