{{ config(
    materialized='incremental', partition_by='sent_date', meta={'days_before': notification_day_count()}
) }}
{% set days = notification_day_count() %}
{% set seconds = (var('notification_hours') | float * 3600) | round | int %}

with reports as (
    select * from {{ ref('stg_events') }} as events
    where kind = 'notification_sent' and {{ in_window('occurred_at', before=days) }}
    {%- if is_windowed() %}
    and not exists (
        select 1
        from {{ this }} as older
        where older.notification_id = events.notification_id and {{ before_window('older.sent_date', before=days) }}
    )
    {%- endif %}
),

-- One that was sent again, as its sender could not know, counts from the first time.
ranked as (
    select
        reports.*,
        row_number() over (partition by notification_id order by occurred_at, event_id) as report_rank
    from reports
),

sent as (
    select
        ranked.*,
        occurred_at + interval '{{ seconds }}' second as outcome_known_at
    from ranked
    where report_rank = 1
),

-- By how much it says: a click more than that it was put away, and that more than that it was opened.
answers as (
    select
        notification_id,
        occurred_at,
        event_id,
        device,
        case kind
            when 'notification_clicked' then 1
            when 'notification_dismissed' then 2
            when 'notification_opened' then 3
            else 4
        end as answer_rank
    from {{ ref('stg_events') }}
    where
        kind in ({{ notification_kinds() }})
        and kind <> 'notification_sent'
        and notification_id is not null
        and {{ in_window('occurred_at', before=2 * days, after=days) }}
),

-- What is recorded as sent a little late, because the first record was lost, may have been answered before.
counted as (
    select
        answers.*,
        row_number() over (
            partition by answers.notification_id order by answers.answer_rank, answers.occurred_at, answers.event_id
        ) as answer_order
    from answers
    inner join sent
        on answers.notification_id = sent.notification_id
        and answers.occurred_at >= sent.occurred_at - interval '1' day
        and answers.occurred_at < sent.outcome_known_at
)

select
    sent.notification_id,
    sent.visitor_id,
    sent.notification_type,
    {{ json_field('sent.features', 'segment') }} as segment,
    {{ json_field('sent.features', 'channel') }} as channel,
    sent.banner_id as content_id,
    cast({{ json_field('sent.features', 'hour_bucket', '([0-9]{1,2})[,}]') }} as bigint) as hour_bucket,
    sent.policy,
    sent.propensity,
    cast({{ json_field('sent.features', 'planned_at', '([0-9]{1,11})[,}]') }} as bigint) as planned_second,
    sent.occurred_at as sent_at,
    {{ day_of('sent.occurred_at') }} as sent_date,
    sent.outcome_known_at,
    counted.answer_rank,
    counted.occurred_at as answered_at,
    counted.device
from sent
left join counted on sent.notification_id = counted.notification_id and counted.answer_order = 1
