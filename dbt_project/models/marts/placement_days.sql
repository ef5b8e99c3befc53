with impressions as (
    select
        placement_id,
        coalesce(position, 0) as position,
        banner_id,
        impressed_date,
        coalesce(arm, 'unknown') as arm,
        coalesce(policy, 'unknown') as policy,
        session_id,
        is_clicked
    from {{ ref('int_impressions_labelled') }}
)

select
    placement_id,
    position,
    banner_id,
    impressed_date,
    arm,
    policy,
    count(*) as impression_count,
    count(case when is_clicked then 1 end) as click_count,
    count(case when is_clicked then 1 end) / cast(count(*) as {{ type_double() }}) as click_rate,
    count(distinct session_id) as session_count,
    count(distinct case when is_clicked then session_id end) as clicked_session_count
from impressions
group by placement_id, position, banner_id, impressed_date, arm, policy
