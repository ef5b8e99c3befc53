with orders as (
    select * from {{ ref('int_order_days') }}
),

known as (
    select count(customer_id) as customer_count, max(ordered_date) as as_of_date
    from orders
),

-- Where no order names a customer, the visitor stands for one.
lines as (
    select
        case when known.customer_count > 0 then orders.customer_id else orders.visitor_id end as customer_id,
        orders.order_id,
        orders.ordered_date,
        orders.order_line_count,
        orders.order_amount - orders.return_amount as net_amount,
        known.as_of_date
    from orders
    cross join known
),

customers as (
    select
        customer_id,
        as_of_date,
        -- A customer known by returns alone was last seen with the last of them.
        coalesce(
            max(case when order_line_count > 0 then ordered_date end), max(ordered_date)
        ) as last_ordered_date,
        count(distinct case when order_line_count > 0 then order_id end) as frequency,
        sum(net_amount) as monetary
    from lines
    where customer_id is not null
    group by customer_id, as_of_date
),

measured as (
    select
        customers.*,
        {{ dbt.datediff('last_ordered_date', 'as_of_date', 'day') }} as recency_days
    from customers
),

scores as (
    select
        measured.*,
        {{ quintile('recency_days desc') }} as r_score,
        {{ quintile('frequency') }} as f_score,
        {{ quintile('monetary') }} as m_score
    from measured
)

select
    customer_id,
    as_of_date,
    cast(recency_days as bigint) as recency_days,
    cast(frequency as bigint) as frequency,
    cast(monetary as {{ type_double() }}) as monetary,
    r_score,
    f_score,
    m_score,
    cast(floor((f_score + m_score + 1) / 2) as bigint) as fm_score
from scores
