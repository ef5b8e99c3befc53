{# What the targets spell differently and dbt has no macro for, or none that keeps microseconds or order. #}
{% macro type_double() -%} {{ return(adapter.dispatch('type_double', 'marquee')()) }} {%- endmacro %}
{% macro default__type_double() -%} double {%- endmacro %}
{% macro postgres__type_double() -%} double precision {%- endmacro %}

{# A string as quoted JSON text. #}
{% macro json_text(value) -%} {{ return(adapter.dispatch('json_text', 'marquee')(value)) }} {%- endmacro %}
{% macro default__json_text(value) -%} cast(to_json({{ value }}) as {{ dbt.type_string() }}) {%- endmacro %}
{% macro spark__json_text(value) -%} substring(to_json(array({{ value }})), 2, length(to_json(array({{ value }}))) - 2) {%- endmacro %}

{# A decimal with so many digits as text, all of them written. #}
{% macro decimal_text(value, digits) -%} {{ return(adapter.dispatch('decimal_text', 'marquee')(value, digits)) }} {%- endmacro %}
{% macro default__decimal_text(value, digits) -%} cast({{ value }} as {{ dbt.type_string() }}) {%- endmacro %}
{# Spark writes small ones with an exponent. #}
{% macro spark__decimal_text(value, digits) -%} format_number({{ value }}, '0.{{ '0' * digits }}') {%- endmacro %}

{# A sum of floats to the last digit, whatever order the rows come in: the same rows must give the same bundle. #}
{% macro stable_sum(value) -%} {{ return(adapter.dispatch('stable_sum', 'marquee')(value)) }} {%- endmacro %}
{% macro default__stable_sum(value) -%} sum({{ value }} order by {{ value }}) {%- endmacro %}
{% macro spark__stable_sum(value) -%}
    case
        when count({{ value }}) > 0
            then aggregate(array_sort(collect_list(cast({{ value }} as double))), cast(0 as double), (total, part) -> total + part)
    end
{%- endmacro %}

{# dbt's own for Spark ignores the order. #}
{% macro spark__listagg(measure, delimiter_text, order_by_clause, limit_num) -%}
    listagg({{ measure }}, {{ delimiter_text }}) {% if order_by_clause %}within group ({{ order_by_clause }}){% endif %}
{%- endmacro %}

{# dbt's own for Spark counts in whole seconds. #}
{% macro spark__dateadd(datepart, interval, from_date_or_timestamp) -%}
    timestampadd({{ datepart }}, {{ interval }}, {{ from_date_or_timestamp }})
{%- endmacro %}

{# Whole microseconds from one timestamp to another. #}
{% macro microseconds_between(start, end) -%}
    {{ return(adapter.dispatch('microseconds_between', 'marquee')(start, end)) }}
{%- endmacro %}
{% macro default__microseconds_between(start, end) -%} date_diff('microsecond', {{ start }}, {{ end }}) {%- endmacro %}
{% macro postgres__microseconds_between(start, end) -%}
    cast(extract(epoch from ({{ end }}) - ({{ start }})) * 1000000 as bigint)
{%- endmacro %}
{% macro spark__microseconds_between(start, end) -%} timestampdiff(microsecond, {{ start }}, {{ end }}) {%- endmacro %}
