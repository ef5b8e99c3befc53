{# What the targets spell differently and dbt has no macro for. #}
{% macro type_double() -%} {{ return(adapter.dispatch('type_double', 'marquee')()) }} {%- endmacro %}
{% macro default__type_double() -%} double {%- endmacro %}
{% macro postgres__type_double() -%} double precision {%- endmacro %}

{# A string as quoted JSON text. #}
{% macro json_text(value) -%} {{ return(adapter.dispatch('json_text', 'marquee')(value)) }} {%- endmacro %}
{% macro default__json_text(value) -%} cast(to_json({{ value }}) as {{ dbt.type_string() }}) {%- endmacro %}
{% macro spark__json_text(value) -%} substring(to_json(array({{ value }})), 2, length(to_json(array({{ value }}))) - 2) {%- endmacro %}
