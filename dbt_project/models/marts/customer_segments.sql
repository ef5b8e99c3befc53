select
    scores.customer_id,
    scores.as_of_date,
    scores.r_score,
    scores.fm_score,
    cells.segment,
    caps.weekly_cap
from {{ ref('rfm_scores') }} as scores
inner join {{ ref('rfm_segment_cells') }} as cells
    on scores.r_score = cells.r_score
    and scores.fm_score = cells.fm_score
inner join {{ ref('segment_weekly_caps') }} as caps on cells.segment = caps.segment
