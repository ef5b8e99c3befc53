{# Contracts name types as the contract does, which is DuckDB's way; here they become the target's. #}
{% macro contract_type(type) -%} {{ return(adapter.dispatch('contract_type', 'marquee')(type)) }} {%- endmacro %}
{% macro default__contract_type(type) -%} {{ return(type) }} {%- endmacro %}
{% macro postgres__contract_type(type) -%} {{ return({'double': 'double precision', 'varchar': 'text'}.get(type, type)) }} {%- endmacro %}
{% macro spark__contract_type(type) -%} {{ return({'varchar': 'string'}.get(type, type)) }} {%- endmacro %}

{% macro typed_columns(columns) -%}
    {%- set typed = {} -%}
    {%- for name, column in columns.items() -%}
        {%- set copy = dict(column) -%}
        {%- do copy.update({'data_type': contract_type(column['data_type'])}) -%}
        {%- do typed.update({name: copy}) -%}
    {%- endfor -%}
    {{ return(typed) }}
{%- endmacro %}

{# The queries and the table that dbt makes of a contract's columns. #}
{% macro postgres__get_empty_schema_sql(columns) -%} {{ return(dbt.default__get_empty_schema_sql(typed_columns(columns))) }} {%- endmacro %}
{% macro spark__get_empty_schema_sql(columns) -%} {{ return(dbt.default__get_empty_schema_sql(typed_columns(columns))) }} {%- endmacro %}

{% macro postgres__get_table_columns_and_constraints() -%}
    {%- set columns = adapter.render_raw_columns_constraints(raw_columns=typed_columns(model['columns'])) -%}
    {# Text keeps its bytewise order, which a column made from a type alone would lose. #}
    ({% for column in columns %}{{ column | replace(' text', ' text collate "C"') }}{{ ', ' if not loop.last }}{% endfor %})
{%- endmacro %}
