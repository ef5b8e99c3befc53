{# Fails with each key that occurs more than once or lacks a part: of one column, or of the columns named. #}
{% test primary_key(model, column_name=none, columns=none) %}
{%- set parts = columns or [column_name] %}
select {{ parts | join(', ') }}, count(*) as row_count
from {{ model }}
group by {{ parts | join(', ') }}
having count(*) > 1 or {% for part in parts %}{{ part }} is null{{ ' or ' if not loop.last }}{% endfor %}
{% endtest %}
