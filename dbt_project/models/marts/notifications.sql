-- Known up to the newest event: what was not answered until then may still be.
with known as (
    select max(occurred_at) as known_until
    from {{ ref('stg_events') }}
)

select
    notification_id,
    visitor_id,
    notification_type,
    coalesce(segment, 'unknown') as segment,
    coalesce(channel, 'unknown') as channel,
    content_id,
    hour_bucket,
    coalesce(policy, 'unknown') as policy,
    propensity,
    {{ dbt.dateadd('second', 'planned_second', "cast('1970-01-01 00:00:00' as timestamp)") }} as planned_at,
    sent_at,
    outcome_known_at,
    case
        when answer_rank = 1 then 'clicked'
        when answer_rank = 2 then 'dismissed'
        when answer_rank = 3 then 'opened'
        when answer_rank = 4 or outcome_known_at <= known_until then 'ignored'
    end as outcome,
    case
        when answer_rank is not null then answered_at
        when outcome_known_at <= known_until then outcome_known_at
    end as outcome_at,
    coalesce(device, 'unknown') as device
from {{ ref('int_notifications_answered') }}
cross join known
