{#
Window builds. The vars from_date and to_date, 'YYYY-MM-DD' and both inclusive, say which days to build; without
from_date everything is built. A window build replaces all rows of its days, so building a day again changes nothing.

A model replaced by day sets partition_by to its date column. meta.days_before widens the window of one whose rows
change for so many days after theirs; meta.days_late says that the column is so many days later than the day meant.
A model replaced by key sets materialized to upserted() and unique_key, and yields the whole row of each key with
anything on or after from_date; meta.window_column names its date or time column from which to tell that a key is gone.
#}
{% macro is_windowed() -%} {{ return(var('from_date', none) is not none and is_incremental()) }} {%- endmacro %}

{# Whether a date or timestamp lies in the days to build, or up to so many days before or after; always in a full build. #}
{% macro in_window(column, before=0, after=0) -%}
    {%- if is_windowed() -%} {{ between_days(column, before, after) }} {%- else -%} 1 = 1 {%- endif -%}
{%- endmacro %}

{# Whether a date or timestamp lies before the days to build; only in a window build. #}
{% macro before_window(column, before=0) -%} {{ column }} < {{ window_day('from_date', -before) }} {%- endmacro %}

{# Whether a date or timestamp lies on or after the first day to build; always in a full build. #}
{% macro since_window(column) -%}
    {%- if is_windowed() -%} {{ column }} >= {{ window_day('from_date') }} {%- else -%} 1 = 1 {%- endif -%}
{%- endmacro %}

{# The first ('from_date') or last ('to_date') day to build, moved by so many days, as a date. #}
{% macro window_day(bound, days=0) -%}
    {%- set day = modules.datetime.date.fromisoformat(var(bound)) + modules.datetime.timedelta(days=days) -%}
    cast('{{ day }}' as date)
{%- endmacro %}

{% macro between_days(column, before=0, after=0) -%}
    {{ column }} >= {{ window_day('from_date', -before) }}
    {%- if var('to_date', none) is not none %} and {{ column }} < {{ window_day('to_date', after + 1) }}{% endif -%}
{%- endmacro %}

{# Materialisation of a model whose rows do not fill whole days: Spark's files lose no single rows, so it is built whole there. #}
{% macro upserted() -%} {{ return('table' if target.type == 'spark' else 'incremental') }} {%- endmacro %}

{# Incremental strategy 'window': out go the window's rows, and those whose key comes again; in come the new ones. #}
{% macro get_incremental_window_sql(arg_dict) -%}
    {%- set old, new, key = arg_dict['target_relation'], arg_dict['temp_relation'], arg_dict['unique_key'] -%}
    {%- set columns = arg_dict['dest_columns'] | map(attribute='quoted') | join(', ') -%}
    {%- set column = window_column(config) -%}
    {%- set keys = ([key] if key is string else key) if key and is_windowed() else [] -%}
    {%- if not is_windowed() %}
    delete from {{ old }};
    {%- elif column %}
    delete from {{ old }}
    where {{ since_window(column) if keys else replaced_rows(config) }};
    {%- endif %}
    {%- if keys %}
    delete from {{ old }} as old_rows using {{ new }} as new_rows
    where {% for name in keys %}{{ ' and ' if not loop.first }}old_rows.{{ name }} = new_rows.{{ name }}{% endfor %};
    {%- endif %}
    insert into {{ old }} ({{ columns }}) select {{ columns }} from {{ new }}
{%- endmacro %}

{% macro replaced_rows(model_config) -%}
    {%- set meta = model_config.get('meta', {}) -%}
    {%- set late = meta.get('days_late', 0) -%}
    {{ between_days(window_column(model_config), meta.get('days_before', 0) - late, late) }}
{%- endmacro %}

{% macro window_column(model_config) -%}
    {{ return(model_config.get('meta', {}).get('window_column') or model_config.get('partition_by')) }}
{%- endmacro %}

{# Data tests of a model that says which day a row is of look at the days just built. #}
{% macro get_where_subquery(relation) -%}
    {%- set tested = graph.nodes.get(model.attached_node) if execute else none -%}
    {%- set column = window_column(tested.config) if tested -%}
    {%- set conditions = [config.get('where')] | select | list -%}
    {%- if column and var('from_date', none) is not none and not flags.FULL_REFRESH -%}
        {%- do conditions.append(replaced_rows(tested.config)) -%}
    {%- endif -%}
    {%- if conditions -%}
        {{ return('(select * from ' ~ relation ~ ' where ' ~ conditions | join(' and ') ~ ') as dbt_subquery') }}
    {%- endif -%}
    {{ return(relation) }}
{%- endmacro %}
