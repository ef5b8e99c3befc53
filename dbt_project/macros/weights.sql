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
in whatever order they come, on every target. Age and half-life are in the same unit.
#}
{% macro decayed_units(weight, age, half_life, digits) -%}
    cast(floor(
        {{ weight }} * power(
            cast(2 as {{ type_double() }}), -({{ age }}) / cast({{ half_life }} as {{ type_double() }})
        ) * cast(1{{ '0' * digits }} as {{ type_double() }}) + 0.5
    ) as bigint)
{%- endmacro %}
