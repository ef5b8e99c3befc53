"""The rules' names, in the order in which they are asked, and what they are asked about."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.uint8]
"""Codes of ``Rule``, 0 where nothing forbids."""


class Rule(IntEnum):
    """Why a banner may not be shown; the first that forbids counts."""

    sentence: str

    def __new__(cls, code: int, sentence: str) -> Rule:
        """A code with what it says to a marketer."""
        rule = int.__new__(cls, code)
        rule._value_ = code
        rule.sentence = sentence
        return rule

    MAY_BE_SHOWN = 0, "It may be shown."
    UNKNOWN_BANNER = 1, "The catalogue has no such banner."
    UNKNOWN_CAMPAIGN = 2, "The catalogue lacks its campaign."
    CAMPAIGN_PAUSED = 3, "Its campaign is paused."
    BANNER_PAUSED = 4, "The banner is paused."
    NOT_STARTED = 5, "Its campaign has not started yet."
    ENDED = 6, "Its campaign has ended."
    OUTSIDE_HOURS = 7, "Its campaign does not run at this hour of the week."
    PLACEMENT_PAUSED = 8, "The placement is paused."
    OTHER_PLACEMENT = 9, "It may not stand in this placement."
    OTHER_DEVICE = 10, "Its campaign is for other devices."
    OTHER_SEGMENT = 11, "The visitor is in none of the campaign's segments."
    OTHER_PAGE = 12, "Its campaign is for other pages."
    OTHER_COUNTRY = 13, "Its campaign is for other countries."
    UNAVAILABLE = 14, "None of the products that it promotes is available."
    BUDGET_SPENT = 15, "Its campaign has had all its impressions."
    DAILY_TARGET_REACHED = 16, "Its campaign has had its impressions of today."
    AHEAD_OF_PACE = 17, "Its campaign is ahead of an even pace over the day."
    CANNOT_COUNT = 18, "It has a cap, and there is no visitor or session to count for."
    CAMPAIGN_CAP = 19, "The visitor has seen its campaign as often as a cap allows, or the cap still blocks."
    BANNER_CAP = 20, "The visitor has seen the banner as often as a cap allows, or the cap still blocks."
    TAKEN_MEANWHILE = 21, "Another request took the last impression while this one was answered."
    ELSEWHERE_ON_PAGE = 22, "It stands in another place of the same page."
    EXCLUSIVE_ELSEWHERE = 23, "An exclusive campaign has the slate for itself."
    NOT_NEEDED = 24, "It is a house banner, and others may be shown."


def sentence(code: int) -> str:
    """What a code says to a marketer."""
    return next(rule.sentence for rule in Rule if rule == code)


@dataclass(frozen=True, slots=True)
class Ask:
    """Who asks, where and when.

    Attributes:
        placement_id: where banners are to stand; one that the catalogue does not know has no rules of its own.
        device: one of ``contract.DEVICES``.
        page: path of the page, if known.
        country: two capital letters, if known.
        segments: the visitor's.
        at: UTC without a zone.
        visitor_id: None for a visitor without a cookie.
        session_id: None where the site has none.
    """

    placement_id: str
    device: str
    page: str | None
    country: str | None
    segments: frozenset[str]
    at: datetime
    visitor_id: str | None = None
    session_id: str | None = None
