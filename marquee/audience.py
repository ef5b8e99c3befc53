"""The contract's tables of whom the shop speaks to: segments, responses to banners, notifications and their outcome."""

from __future__ import annotations

from marquee.tables import Column, Table

VISITOR_SEGMENTS = Table(
    "visitor_segments",
    "One row per visitor whose customer is in a segment, as known at the newest event.",
    ("visitor_id",),
    (
        Column("visitor_id", "string", True),
        Column("feature_at", "timestamp", True, "The newest event of anybody."),
        Column("segment", "string", True, "Of marts.customer_segments."),
    ),
)
"""Read online by targeting; no input of the ranker."""

VISITOR_RESPONSES = Table(
    "visitor_responses",
    "One row per visitor to whom a banner was shown, from clean impressions alone.",
    ("visitor_id",),
    (
        Column("visitor_id", "string", True),
        Column("segment", "string", about="As it is now; empty for a visitor in none."),
        Column("impression_count", "int", True),
        Column("click_count", "int", True, "Impressions with a click that counts."),
        Column("conversion_count", "int", True, "Impressions whose click an order followed."),
    ),
)

NOTIFICATIONS = Table(
    "notifications",
    "One row per notification sent, with how it was chosen and what became of it.",
    ("notification_id",),
    (
        Column("notification_id", "string", True),
        Column("visitor_id", "string", True),
        Column("notification_type", "string", True),
        Column("segment", "string", True, "The visitor's when it was planned; unknown where the report does not say."),
        Column("channel", "string", True, "Unknown where the report does not say."),
        Column("content_id", "string", about="What it showed; empty for one without."),
        Column("hour_bucket", "int", about="Of the day where the visitor is, as planned."),
        Column("policy", "string", True, "What chose it; unknown where the report does not say."),
        Column("propensity", "float", about="Probability of its type and hour bucket under the policy, in (0, 1]."),
        Column("planned_at", "timestamp"),
        Column("sent_at", "timestamp", True, "When it was sent first."),
        Column("outcome_known_at", "timestamp", True, "From then on an answer no longer counts."),
        Column("outcome", "string", about="The first that holds of clicked, dismissed, opened, ignored; empty as yet."),
        Column("outcome_at", "timestamp", about="When it was answered first in that way, or counts as ignored."),
        Column("device", "string", True, "On which it was answered."),
    ),
)
"""What the bandit over types and hours learns from."""
