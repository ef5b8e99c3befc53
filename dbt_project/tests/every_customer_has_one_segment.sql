select scores.customer_id, count(segments.customer_id) as segment_count
from {{ ref('rfm_scores') }} as scores
left join {{ ref('customer_segments') }} as segments on scores.customer_id = segments.customer_id
group by scores.customer_id
having count(segments.customer_id) <> 1
