{# A share rounded to 6 digits; through decimal, which every target rounds alike. #}
{% macro rounded_share(share) -%}
    cast(cast({{ share }} as decimal(18, 6)) as {{ type_double() }})
{%- endmacro %}

{# JSON object text {"key": share, ...}, largest share first, then by key; '{}' when there is no row. #}
{% macro share_object(key, share) -%}
    {%- set member = json_text(key) ~ " || ':' || cast(" ~ share ~ " as " ~ dbt.type_string() ~ ")" -%}
    '{' || {{ dbt.listagg(member, "','", "order by " ~ share ~ " desc, " ~ key) }} || '}'
{%- endmacro %}

{# JSON list text ["a", ...] in order. #}
{% macro json_list(value) -%}
    '[' || {{ dbt.listagg(json_text(value), "','", "order by " ~ value) }} || ']'
{%- endmacro %}
