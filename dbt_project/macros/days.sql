{# Day of a timestamp. #}
{% macro day_of(moment) -%} cast({{ moment }} as date) {%- endmacro %}

{# The midnight after a day: from then on all of the day is known. #}
{% macro next_midnight(day) -%} cast({{ day }} as timestamp) + interval '1' day {%- endmacro %}

{# Window frame over day rows: the day itself and the days - 1 calendar days before it. #}
{% macro trailing(days) -%}
    range between interval '{{ days - 1 }}' day preceding and current row
{%- endmacro %}
