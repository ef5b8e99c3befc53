-- Else an event would have two categories, and be there twice.
select product_id, valid_from_at, valid_until_at, next_valid_from_at
from (
    select
        product_id,
        valid_from_at,
        valid_until_at,
        lead(valid_from_at) over (partition by product_id order by valid_from_at) as next_valid_from_at
    from {{ ref('product_category_periods') }}
) as periods
where valid_until_at <= valid_from_at or next_valid_from_at < valid_until_at
