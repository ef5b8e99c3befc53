with placements as (
    select banner_id, {{ json_list('placement_id') }} as placements
    from {{ ref('stg_banner_placements') }}
    group by banner_id
)

select
    banners.banner_id,
    banners.campaign_id,
    coalesce(banners.title, banners.banner_id) as title,
    campaigns.starts_at,
    campaigns.ends_at,
    campaigns.status,
    coalesce(placements.placements, '[]') as placements,
    cast(mixes.product_count as bigint) as product_count,
    cast(mixes.mean_price as {{ type_double() }}) as mean_price,
    mixes.category_mix
from {{ ref('stg_banners') }} as banners
inner join {{ ref('stg_campaigns') }} as campaigns on banners.campaign_id = campaigns.campaign_id
inner join {{ ref('int_banner_mixes') }} as mixes on banners.banner_id = mixes.banner_id
left join placements on banners.banner_id = placements.banner_id
