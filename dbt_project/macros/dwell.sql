{# A gap in microseconds where it is a dwell: who stays away for an hour has left, and nobody knows the dwell. #}
{% macro known_dwell(gap) -%} case when {{ gap }} < {{ 3600 * 1000000 }} then {{ gap }} end {%- endmacro %}

{#
How long each event of a CTE "events" lasted: to the visitor's next event of the same session, or where that is not
known the mean of the dwells known of events of its kind on its day. Makes the CTEs gaps, known, means and dwells.
#}
{% macro event_dwells() -%}
gaps as (
    select
        events.*,
        {{ microseconds_between('occurred_at', 'lead(occurred_at) over (
            partition by visitor_id, session_id order by occurred_at, event_id
        )') }} as gap
    from events
),

known as (
    select gaps.*, {{ known_dwell('gap') }} as dwell
    from gaps
),

-- Whole microseconds, so that dwells add up to the same in any order.
means as (
    select
        event_date,
        kind,
        cast(floor(sum(dwell) / cast(count(*) as {{ type_double() }}) + 0.5) as bigint) as mean_dwell
    from known
    where dwell is not null
    group by event_date, kind
),

dwells as (
    select
        known.*,
        coalesce(known.dwell, means.mean_dwell) as dwell_microseconds,
        known.dwell is not null as is_dwell_known
    from known
    left join means on known.event_date = means.event_date and known.kind = means.kind
)
{%- endmacro %}
