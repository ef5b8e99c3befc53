{#
Score 1 to 5, 5 = best: one more than the full fifths of the other rows that are strictly worse, 5 at most. Equal
values so get equal scores, which ntile would not promise. `worst_first` is the order that begins with the worst.
#}
{% macro quintile(worst_first) -%}
    cast(least(
        1 + floor(
            5 * cast(rank() over (order by {{ worst_first }}) - 1 as {{ type_double() }})
            / greatest(count(*) over () - 1, 1)
        ), 5
    ) as bigint)
{%- endmacro %}

{# A float rounded to 9 digits; through decimal, which every target rounds alike. #}
{% macro rounded(value) -%}
    cast(cast({{ value }} as decimal(28, 9)) as {{ type_double() }})
{%- endmacro %}

{# A quotient as a float, null over nothing. #}
{% macro ratio(part, whole) -%}
    {{ part }} / nullif(cast({{ whole }} as {{ type_double() }}), 0)
{%- endmacro %}

{#
Lower (side '-') or upper (side '+') end of the 95 % Wilson score interval of a share: unlike the normal interval it
stays within [0, 1] and holds for few trials and rare successes. Null without trials.
#}
{% macro wilson_end(successes, trials, side) -%}
    {%- set z = 1.959963984540054 -%}
    {%- set n = "cast(" ~ trials ~ " as " ~ type_double() ~ ")" -%}
    {%- set middle = successes ~ " + " ~ (z * z / 2) -%}
    {%- set spread = z ~ " * sqrt(" ~ successes ~ " * (" ~ n ~ " - " ~ successes ~ ") / nullif(" ~ n ~ ", 0) + " ~ (z * z / 4) ~ ")" -%}
    {{ rounded("(" ~ middle ~ " " ~ side ~ " " ~ spread ~ ") / (" ~ n ~ " + " ~ (z * z) ~ ")") }}
{%- endmacro %}
