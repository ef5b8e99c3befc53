"""Every schema and name that crosses a border, written once.

A *table* is a grain plus ordered columns. Sources produce the raw tables, dbt turns them into the marts,
Feast serves the feature tables, Great Expectations checks both borders, the ranker reads ``RANKER_FEATURES``
in order. ``tests/contract`` proves that each of those agrees with this file and counts what it compared.
"""

from __future__ import annotations

from typing import Final

from marquee.audience import NOTIFICATIONS as NOTIFICATIONS
from marquee.audience import VISITOR_RESPONSES as VISITOR_RESPONSES
from marquee.audience import VISITOR_SEGMENTS as VISITOR_SEGMENTS
from marquee.ranker_features import RANKER_FEATURES as RANKER_FEATURES
from marquee.ranker_features import feature_hash as feature_hash
from marquee.tables import SQL_TYPES as SQL_TYPES
from marquee.tables import Column as Column
from marquee.tables import ColumnType as ColumnType
from marquee.tables import Table as Table

EVENT_KINDS: Final = (
    "page_view",
    "product_view",
    "favourite",
    "cart",
    "order",
    "return",
    "impression",
    "click",
    "seen",
    "other",
    "notification_sent",
    "notification_opened",
    "notification_clicked",
    "notification_dismissed",
    "notification_ignored",
)
"""What a visitor can do. ``impression``, ``click`` and ``seen`` concern banners; ``order`` and ``return`` a line.

An ``impression`` was sent to the page; it is ``seen`` once half of it was on the screen for a second, as the IAB and
MRC have it. What was sent by mail or push, and what became of it, is told by the ``notification_`` kinds; they are no
part of a visit.
"""

BANNER_KINDS: Final = ("impression", "click", "seen")
NOTIFICATION_KINDS: Final = tuple(kind for kind in EVENT_KINDS if kind.startswith("notification_"))
VISIT_KINDS: Final = tuple(kind for kind in EVENT_KINDS if kind not in NOTIFICATION_KINDS)
"""What happens in the shop; the others come in bursts, whenever somebody was written to."""
PRODUCT_KINDS: Final = ("product_view", "favourite", "cart", "order", "return")
IMPLICIT_WEIGHTS: Final = {"page_view": 1.0, "product_view": 1.0, "favourite": 1.5, "cart": 1.5, "order": 3.0}
"""How much interest in its product's category an event of this kind shows; other kinds show none."""
SESSION_GAP_MINUTES: Final = 30
"""Silence after which a visitor's next event starts a new session, unless its source names the session."""
SESSION_HALF_LIFE_MINUTES: Final = 30
"""Interest within a session halves in this time."""
SESSION_PRODUCTS: Final = 10
"""How many of a session's last products are kept."""
LONGEST_ID: Final = 200
"""Of any id: one longer than any shop has would let a single event fill a store."""
_ALWAYS: Final = ("event_id", "occurred_at", "visitor_id")


def required_by_kind(kind: str) -> tuple[str, ...]:
    """Columns of the events table that an event of this kind must carry."""
    return (
        _ALWAYS
        + (("product_id",) if kind in PRODUCT_KINDS else ())
        + (("banner_id",) if kind in BANNER_KINDS else ())
        + (("placement_id", "impression_id") if kind == "impression" else ())
        + (("impression_id",) if kind == "seen" else ())
        + (("notification_id",) if kind in NOTIFICATION_KINDS else ())
        + (("notification_type",) if kind == "notification_sent" else ())
    )


DEVICES: Final = ("desktop", "mobile", "tablet", "unknown")
CAMPAIGN_STATUSES: Final = ("active", "paused")
SLATE_LIMIT: Final = 50
"""Most banners one request may ask for."""
MOST_PLACEMENTS: Final = 10
"""Most placements one request may name."""
LONGEST_PAGE: Final = 2_000
"""Of a page's path, in characters."""


# --- raw tables: what a source yields -----------------------------------------------------------------------

EVENTS = Table(
    "events",
    "One row per thing a visitor did, as reported by one source.",
    ("event_id",),
    (
        Column("event_id", "string", True, "Unique over all sources; a repeated id is the same event."),
        Column("kind", "string", True, "One of EVENT_KINDS."),
        Column("occurred_at", "timestamp", True, "When it happened, UTC."),
        Column("visitor_id", "string", True, "Cookie-scoped visitor."),
        Column("customer_id", "string", about="Known buyer, where the source says so."),
        Column("session_id", "string", about="The source's own session, where it has one."),
        Column("product_id", "string", about="Product concerned; required for product kinds."),
        Column("banner_id", "string", about="Banner concerned; required for banner kinds."),
        Column("placement_id", "string", about="Where the banner stood; required for impressions."),
        Column("position", "int", about="Place in the slate, from 0."),
        Column("request_id", "string", about="The request that the slate answered."),
        Column("impression_id", "string", about="Joins a click to its impression; required for impression and seen."),
        Column("order_id", "string", about="Order or invoice number."),
        Column("page", "string", about="Page path."),
        Column("quantity", "float", about="Units ordered or returned, > 0."),
        Column("amount", "float", about="Value of the line in the shop's currency, >= 0."),
        Column("device", "string", about="One of DEVICES."),
        Column("country", "string"),
        Column("referrer", "string"),
        Column("arm", "string", about="Experiment arm that chose the banner."),
        Column("policy", "string", about="Logging policy that drew the slate."),
        Column("propensity", "float", about="Probability of this banner here given those above it, in (0, 1]."),
        Column("features", "string", about="JSON object: the ranker's inputs, and as_of when each was known."),
        Column("notification_id", "string", about="Joins what became of it to its sending; for notification kinds."),
        Column("notification_type", "string", about="What kind of message; required for notification_sent."),
    ),
)

BOUNDED: Final = tuple(name for name in EVENTS.names if name.endswith("_id") or name == "notification_type")
"""Names in the events table: ``LONGEST_ID`` characters at most, and an empty one is none."""

PRODUCTS = Table(
    "products",
    "One row per product.",
    ("product_id",),
    (
        Column("product_id", "string", True),
        Column("category_id", "string"),
        Column("title", "string"),
        Column("price", "float", about="Current price, >= 0."),
        Column("is_available", "bool"),
    ),
)

PRODUCT_PROPERTIES = Table(
    "product_properties",
    "One row per product, property and moment from which the value holds.",
    ("product_id", "property", "valid_from_at"),
    (
        Column("product_id", "string", True),
        Column("property", "string", True),
        Column("value", "string", True),
        Column("valid_from_at", "timestamp", True),
    ),
)

CATEGORIES = Table(
    "categories",
    "One row per product category.",
    ("category_id",),
    (
        Column("category_id", "string", True),
        Column("parent_id", "string", about="Empty at the root."),
        Column("title", "string"),
    ),
)

CAMPAIGNS = Table(
    "campaigns",
    "One row per campaign.",
    ("campaign_id",),
    (
        Column("campaign_id", "string", True),
        Column("title", "string"),
        Column("starts_at", "timestamp", True, "First moment it may be shown, UTC."),
        Column("ends_at", "timestamp", True, "First moment it may no longer be shown, UTC."),
        Column("status", "string", True, "One of CAMPAIGN_STATUSES."),
    ),
)

BANNERS = Table(
    "banners",
    "One row per banner.",
    ("banner_id",),
    (
        Column("banner_id", "string", True),
        Column("campaign_id", "string", True),
        Column("title", "string"),
        Column("landing_category_id", "string"),
        Column("created_at", "timestamp"),
    ),
)

BANNER_PLACEMENTS = Table(
    "banner_placements",
    "One row per banner and placement where it may stand.",
    ("banner_id", "placement_id"),
    (Column("banner_id", "string", True), Column("placement_id", "string", True)),
)

CREATIVES = Table(
    "creatives",
    "One row per creative, one drawing of a banner.",
    ("creative_id",),
    (
        Column("creative_id", "string", True),
        Column("banner_id", "string", True),
        Column("title", "string"),
    ),
)

BANNER_PRODUCTS = Table(
    "banner_products",
    "One row per banner, creative and product that it promotes.",
    ("banner_id", "creative_id", "product_id"),
    (
        Column("banner_id", "string", True),
        Column("creative_id", "string", True),
        Column("product_id", "string", True),
    ),
)

RAW_TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        EVENTS,
        PRODUCTS,
        PRODUCT_PROPERTIES,
        CATEGORIES,
        CAMPAIGNS,
        BANNERS,
        BANNER_PLACEMENTS,
        CREATIVES,
        BANNER_PRODUCTS,
    )
}

# --- feature tables and training rows: what dbt hands to Feast and to training ------------------------------

_FEATURE_AT: Final = Column("feature_at", "timestamp", True, "Midnight after the day; nothing later than it went in.")

VISITOR_FEATURES_28D = Table(
    "visitor_features_28d",
    "One row per visitor and day on which its 28-day counts changed, as known at the next midnight.",
    ("visitor_id", "feature_at"),
    (
        Column("visitor_id", "string", True),
        _FEATURE_AT,
        Column("view_count_28d", "float", True),
        Column("cart_count_28d", "float", True),
        Column("order_count_28d", "float", True),
        Column("active_day_count_28d", "float", True),
    ),
)

VISITOR_FEATURES_365D = Table(
    "visitor_features_365d",
    "One row per visitor and day on which its 365-day counts or its interests changed, as known at the next midnight.",
    ("visitor_id", "feature_at"),
    (
        Column("visitor_id", "string", True),
        _FEATURE_AT,
        Column("last_seen_at", "timestamp", about="The latest event in the window; empty when none is left."),
        Column("order_count_365d", "float", True),
        Column("order_amount_365d", "float", True),
        Column("visitor_impression_count_365d", "float", True),
        Column("visitor_click_count_365d", "float", True),
        Column("category_affinity", "string", True, "Category shares of decayed interest, JSON object, largest 30."),
    ),
)

BANNER_FEATURES_28D = Table(
    "banner_features_28d",
    "One row per banner and day of its life, as known at the next midnight.",
    ("banner_id", "feature_at"),
    (
        Column("banner_id", "string", True),
        _FEATURE_AT,
        Column("banner_impression_count_28d", "float", True),
        Column("banner_click_count_28d", "float", True),
    ),
)

SESSION_FEATURES = Table(
    "session_features",
    "One row per session, as known at its last event.",
    ("session_id", "visitor_id"),
    (
        Column("session_id", "string", True),
        Column("visitor_id", "string", True),
        Column("feature_at", "timestamp", True, "When the session's last event happened."),
        Column("session_view_count", "float", True),
        Column("session_cart_count", "float", True),
        Column("session_order_count", "float", True),
        Column("session_impression_count", "float", True),
        Column("session_click_count", "float", True),
        Column("last_products", "string", True, "JSON list of the last 10 distinct products, newest first."),
        Column(
            "category_interest", "string", True, "JSON object: decayed sum of event weights by category, 9 decimals."
        ),
    ),
)
"""The batch definition of what ``features.session`` keeps up to the second online."""

SESSION_MOMENTS = Table(
    "session_moments",
    "One row per impression with its session as it stood just before; empty where none was under way.",
    ("impression_id",),
    (
        Column("impression_id", "string", True),
        Column("visitor_id", "string", True),
        Column("impressed_at", "timestamp", True),
        Column("session_started_at", "timestamp", about="Its first event."),
        Column("session_view_count", "float"),
        Column("session_cart_count", "float"),
        Column("session_order_count", "float"),
        Column("session_product_count", "float", about="Distinct products, 10 at most."),
        Column("last_category", "string", about="Category of the last event that shows interest in one."),
        Column("category_interest", "string", about="JSON object, as in session_features but as of that event."),
    ),
)
"""What ``features.session`` told of the visitor's session at that moment. Of clean impressions only.

Banners that were merely shown count for nothing: those of the same page may not have arrived by then.
"""

BANNER_CATALOGUE = Table(
    "banner_catalogue",
    "One row per banner with what eligibility and scoring need to know of it.",
    ("banner_id",),
    (
        Column("banner_id", "string", True),
        Column("campaign_id", "string", True),
        Column("title", "string", True),
        Column("starts_at", "timestamp", True),
        Column("ends_at", "timestamp", True),
        Column("status", "string", True),
        Column("placements", "string", True, "JSON list of placement ids; empty means any."),
        Column("product_count", "int", True),
        Column("mean_price", "float", True, "Mean price of its products, 0 when unknown."),
        Column("category_mix", "string", True, "Shares of its products by category, JSON object, largest 30."),
    ),
)

PRODUCT_CATEGORY_PERIODS = Table(
    "product_category_periods",
    "One row per product and period in which it has one category, from valid_from_at to before valid_until_at.",
    ("product_id", "valid_from_at"),
    (
        Column("product_id", "string", True),
        Column("category_id", "string", True),
        Column("valid_from_at", "timestamp", True, "First moment; 1900 for a category that held before any date."),
        Column("valid_until_at", "timestamp", True, "First moment at which it no longer holds; 9999 for none."),
    ),
)

TRAINING_ROWS = Table(
    "training_rows",
    "One row per impression of a known banner, with its label and its context.",
    ("impression_id",),
    (
        Column("impression_id", "string", True),
        Column("visitor_id", "string", True),
        Column("banner_id", "string", True),
        Column("campaign_id", "string", True),
        Column("session_id", "string", True),
        Column("impressed_at", "timestamp", True),
        Column("label_known_at", "timestamp", True, "From then on a click no longer counts; labels are final."),
        Column("placement_id", "string", True),
        Column("position", "int", True),
        Column("device", "string", True),
        Column("policy", "string", True),
        Column("propensity", "float", False, "Empty where the source logged none."),
        Column("is_clicked", "bool", True),
    ),
)

MART_TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        VISITOR_FEATURES_28D,
        VISITOR_FEATURES_365D,
        VISITOR_SEGMENTS,
        VISITOR_RESPONSES,
        BANNER_FEATURES_28D,
        SESSION_FEATURES,
        SESSION_MOMENTS,
        BANNER_CATALOGUE,
        PRODUCT_CATEGORY_PERIODS,
        TRAINING_ROWS,
        NOTIFICATIONS,
    )
}
