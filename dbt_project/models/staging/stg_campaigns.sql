with current_rows as (
    {{ current_rows('campaigns', ['campaign_id']) }}
)

select
    campaign_id,
    title,
    starts_at,
    ends_at,
    status
from current_rows
