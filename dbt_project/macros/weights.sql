{# What one event of this kind says about interest in its product's category; null where it says nothing. #}
{% macro implicit_weight(kind) -%}
    case {{ kind }}
        {% for name, weight in var('implicit_weights').items() -%}
        when '{{ name }}' then cast({{ weight }} as {{ type_double() }})
        {% endfor -%}
    end
{%- endmacro %}

{#
A weight that has halved once per half-life of its age, in whole units of 10^-digits: integers add up to the same sum
in whatever order they come, on every target. Age and half-life are in the same unit. After 1,000 half-lives it halves
no more, for Postgres refuses a power that is too small for a float; more than 9 * 10^18 units, a bot's, are cut to that.
#}
{% macro decayed_units(weight, age, half_life, digits) -%}
    cast(floor(least(
        {{ weight }} * power(
            cast(2 as {{ type_double() }}),
            greatest(-({{ age }}) / cast({{ half_life }} as {{ type_double() }}), -1000)
        ) * cast(1{{ '0' * digits }} as {{ type_double() }}) + 0.5,
        cast(9000000000000000000 as {{ type_double() }})
    )) as bigint)
{%- endmacro %}

{# Their sum, which may take more than 64 bits. #}
{% macro sum_of_units(units) -%} {{ return(adapter.dispatch('sum_of_units', 'marquee')(units)) }} {%- endmacro %}
{% macro default__sum_of_units(units) -%} sum({{ units }}) {%- endmacro %}
{% macro spark__sum_of_units(units) -%} sum(cast({{ units }} as decimal(38, 0))) {%- endmacro %}
