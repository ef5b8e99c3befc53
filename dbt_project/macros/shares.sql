{#
A number as exact decimal text with a fixed count of digits, the same on every target. It is rounded in two steps, so
that a value that lies on the border between two texts does not fall to one or the other with the last bit of a sum.
#}
{% macro fixed_point(value, digits) -%}
    cast(cast({{ value }} as decimal(38, {{ digits + 4 }})) as decimal(34, {{ digits }}))
{%- endmacro %}

{# A share rounded to 6 digits. #}
{% macro rounded_share(share) -%}
    cast(cast({{ share }} as decimal(14, 12)) as decimal(8, 6))
{%- endmacro %}

{# JSON object text {"key": value, ...} of decimals with so many digits, in the order given. #}
{% macro json_object(key, value, digits, order) -%}
    {%- set member = json_text(key) ~ " || ':' || " ~ decimal_text(value, digits) -%}
    '{' || {{ dbt.listagg(member, "','", "order by " ~ order) }} || '}'
{%- endmacro %}

{# JSON object text {"key": share, ...}, largest share first, then by key. #}
{% macro share_object(key, share) -%} {{ json_object(key, share, 6, share ~ ' desc, ' ~ key) }} {%- endmacro %}

{# JSON list text ["a", ...] in the order given, else of the values themselves. #}
{% macro json_list(value, order=none) -%}
    {{ return(adapter.dispatch('json_list', 'marquee')(value, order or value)) }}
{%- endmacro %}
{% macro default__json_list(value, order) -%}
    '[' || {{ dbt.listagg(json_text(value), "','", "order by " ~ order) }} || ']'
{%- endmacro %}
{# The same text a third sooner: a session's products are a million short lists. #}
{% macro duckdb__json_list(value, order) -%}
    cast(to_json(list({{ value }} order by {{ order }})) as varchar)
{%- endmacro %}
