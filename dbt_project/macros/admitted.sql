{# Rows of a raw table whose batch passed its gate, each with the number of its batch. #}
{% macro admitted_rows(table) -%}
    select loaded.*, batches.batch_number
    from {{ source('raw', table) }} as loaded
    inner join {{ source('raw', 'batches') }} as batches on loaded.batch_id = batches.batch_id
    where batches.status = 'admitted'
{%- endmacro %}

{# One row per key of a catalogue table: the version that the latest admitted batch brought. #}
{% macro current_rows(table, key) -%}
    select *
    from (
        select
            admitted.*,
            row_number() over (partition by {{ key | join(', ') }} order by batch_number desc) as version_rank
        from ({{ admitted_rows(table) }}) as admitted
    ) as versions
    where version_rank = 1
{%- endmacro %}
