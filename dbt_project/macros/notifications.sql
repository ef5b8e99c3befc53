{# Kinds of event that tell of notifications, in SQL. #}
{% macro notification_kinds() -%}
    'notification_sent', 'notification_opened', 'notification_clicked', 'notification_dismissed', 'notification_ignored'
{%- endmacro %}

{# Days, rounded up, after which nothing can become of a notification any more. #}
{% macro notification_day_count() -%}
    {{ return((var('notification_hours') | float / 24) | round(0, 'ceil') | int) }}
{%- endmacro %}

{#
The value of a name in a JSON object, as text and empty where there is none. By pattern: a shop may report a text that is
no JSON, and not every target can say so without failing.
#}
{% macro json_field(column, name, value='"([^"]*)"') -%}
    {{ return(adapter.dispatch('json_field', 'marquee')(column, '"' ~ name ~ '" ?: ?' ~ value)) }}
{%- endmacro %}
{% macro default__json_field(column, pattern) -%} nullif(regexp_extract({{ column }}, '{{ pattern }}', 1), '') {%- endmacro %}
{% macro postgres__json_field(column, pattern) -%} nullif(substring({{ column }} from '{{ pattern }}'), '') {%- endmacro %}
