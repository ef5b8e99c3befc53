{# Day of a timestamp. #}
{% macro day_of(moment) -%} cast({{ moment }} as date) {%- endmacro %}

{# A day so many days later. #}
{% macro days_after(day, days) -%} cast({{ dbt.dateadd('day', days, day) }} as date) {%- endmacro %}

{# The midnight after a day: from then on all of the day is known. #}
{% macro next_midnight(day) -%} cast({{ day }} as timestamp) + interval '1' day {%- endmacro %}

{# Bounds of what holds always. #}
{% macro start_of_time() -%} cast('1900-01-01 00:00:00' as timestamp) {%- endmacro %}
{% macro end_of_time() -%} cast('9999-12-31 00:00:00' as timestamp) {%- endmacro %}

{# Window frame over day rows: the day itself and the days - 1 calendar days before it. #}
{% macro trailing(days) -%}
    range between interval '{{ days - 1 }}' day preceding and current row
{%- endmacro %}

{# Days, rounded up, after which a click can no longer count for an impression. #}
{% macro attribution_day_count() -%}
    {%- set days = var('attribution_days') | float -%}
    {{ return((days | round(0, 'ceil')) | int) }}
{%- endmacro %}
