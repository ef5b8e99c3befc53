{# A table that Postgres has just made: the days of a windowed one are found by index, and the planner knows its size. #}
{% macro postgres__create_indexes(relation) -%}
    {%- if config.get('materialized') == 'incremental' and window_column(config) -%}
        {%- do run_query('create index on ' ~ relation ~ ' (' ~ window_column(config) ~ ')') -%}
    {%- endif -%}
    {%- do run_query('analyze ' ~ relation) -%}
{%- endmacro %}
