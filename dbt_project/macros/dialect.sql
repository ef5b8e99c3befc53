{# What the targets spell differently and dbt has no macro for. #}
{% macro type_double() -%} {{ return(adapter.dispatch('type_double', 'marquee')()) }} {%- endmacro %}
{% macro default__type_double() -%} double {%- endmacro %}
{% macro postgres__type_double() -%} double precision {%- endmacro %}

{# A string as quoted JSON text. #}
{% macro json_text(value) -%} {{ return(adapter.dispatch('json_text', 'marquee')(value)) }} {%- endmacro %}
{% macro default__json_text(value) -%} cast(to_json({{ value }}) as {{ dbt.type_string() }}) {%- endmacro %}
{% macro spark__json_text(value) -%} substring(to_json(array({{ value }})), 2, length(to_json(array({{ value }}))) - 2) {%- endmacro %}

{# A sum of floats to the last digit, whatever order the rows come in: the same rows must give the same bundle. #}
{% macro stable_sum(value) -%} {{ return(adapter.dispatch('stable_sum', 'marquee')(value)) }} {%- endmacro %}
{% macro default__stable_sum(value) -%} sum({{ value }} order by {{ value }}) {%- endmacro %}
{% macro spark__stable_sum(value) -%}
    aggregate(array_sort(collect_list({{ value }})), cast(0 as double), (total, part) -> total + part)
{%- endmacro %}
