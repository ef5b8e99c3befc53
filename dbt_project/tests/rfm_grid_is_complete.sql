-- 25 cells, so that every customer has a segment; 11 segments in the cells, in the caps and in the notification types.
select counts.what, counts.found, counts.wanted
from (
    select 'cells' as what, count(*) as found, 25 as wanted from {{ ref('rfm_segment_cells') }}
    union all
    select 'segments of cells', count(distinct segment), 11 from {{ ref('rfm_segment_cells') }}
    union all
    select 'segments with a weekly cap', count(*), 11 from {{ ref('segment_weekly_caps') }}
    union all
    select 'segments with a notification type', count(distinct segment), 11 from {{ ref('segment_notification_types') }}
    union all
    select 'notification types', count(*), 32 from {{ ref('segment_notification_types') }}
) as counts
where counts.found <> counts.wanted
