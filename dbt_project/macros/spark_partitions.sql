{#
What dbt-spark runs for the strategy insert_overwrite. Overwriting touches only partitions that get new rows, so those
of the window go first: a day may have lost its last one. Macros here come before dbt's own of the same name.
#}
{% macro get_insert_overwrite_sql(source_relation, target_relation, existing_relation) -%}
    {%- if is_windowed() -%} {%- do drop_replaced_partitions(target_relation) -%} {%- endif -%}
    {%- set columns = adapter.get_columns_in_relation(target_relation) | map(attribute='quoted') | join(', ') -%}
    insert overwrite table {{ target_relation }} {{ partition_cols(label='partition') }}
    select {{ columns }} from {{ source_relation }}
{%- endmacro %}

{% macro drop_replaced_partitions(relation) -%}
    {%- set meta, day = config.get('meta', {}), modules.datetime.date.fromisoformat -%}
    {%- set late, step = meta.get('days_late', 0), modules.datetime.timedelta -%}
    {%- set first = day(var('from_date')) + step(days=late - meta.get('days_before', 0)) -%}
    {%- set last = day(var('to_date')) + step(days=late) -%}
    {%- for row in run_query('show partitions ' ~ relation) -%}
        {%- set column, value = row[0].split('=', 1) -%}
        {%- if first | string <= value[:10] <= last | string -%}
            {%- do run_query(
                'alter table ' ~ relation ~ ' drop if exists partition (' ~ column ~ " = '" ~ value | replace('%3A', ':') ~ "')"
            ) -%}
        {%- endif -%}
    {%- endfor -%}
{%- endmacro %}
