with promoted as (
    select distinct banner_products.banner_id, banner_products.product_id, products.category_id, products.price
    from {{ ref('stg_banner_products') }} as banner_products
    left join {{ ref('int_products') }} as products on banner_products.product_id = products.product_id
),

counts as (
    select
        banner_id,
        count(*) as product_count,
        {{ stable_sum('price') }} / nullif(count(price), 0) as mean_price
    from promoted
    group by banner_id
),

categories as (
    select banner_id, category_id, count(*) as product_count
    from promoted
    where category_id is not null
    group by banner_id, category_id
    union all
    -- Without products of a known category the landing category stands for them.
    select banners.banner_id, banners.landing_category_id as category_id, 1 as product_count
    from {{ ref('stg_banners') }} as banners
    where
        banners.landing_category_id is not null
        and not exists (
            select 1
            from promoted
            where promoted.banner_id = banners.banner_id and promoted.category_id is not null
        )
),

shares as (
    select
        banner_id,
        category_id,
        {{ rounded_share(
            'product_count / cast(sum(product_count) over (partition by banner_id) as ' ~ type_double() ~ ')'
        ) }} as share
    from categories
),

ranked as (
    select
        shares.*,
        row_number() over (partition by banner_id order by share desc, category_id) as share_rank
    from shares
),

mixes as (
    select banner_id, {{ share_object('category_id', 'share') }} as category_mix
    from ranked
    where share_rank <= {{ var('category_limit') }}
    group by banner_id
)

select
    banners.banner_id,
    coalesce(counts.product_count, 0) as product_count,
    coalesce(counts.mean_price, 0) as mean_price,
    coalesce(mixes.category_mix, '{}') as category_mix
from {{ ref('stg_banners') }} as banners
left join counts on banners.banner_id = counts.banner_id
left join mixes on banners.banner_id = mixes.banner_id
