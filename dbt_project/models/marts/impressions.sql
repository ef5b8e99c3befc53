{{ config(materialized='view') }}

select
    impression_id,
    event_id,
    impressed_at,
    visitor_id,
    customer_id,
    session_id,
    product_id,
    banner_id,
    campaign_id,
    placement_id,
    position,
    request_id,
    page,
    device,
    country,
    referrer,
    arm,
    policy,
    propensity,
    features,
    is_clicked,
    clicked_at,
    label_known_at
from {{ ref('int_impressions_labelled') }}
