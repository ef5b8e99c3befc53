"""What a visitor was shown and what campaigns have spent, and how a cap is read from it. Pure."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from marquee.catalogue import Cap
from marquee.errors import TryAgain

SECOND: Final = 1_000_000
"""Microseconds, in which all moments here are counted since 1970, UTC."""
HOUR: Final = 3_600 * SECOND
SESSION_HOURS: Final = 24
"""No session is longer: what was shown earlier belongs to another."""
SLACK: Final = 60 * SECOND
"""How long a showing is kept beyond its use, since requests are not counted in the order of their moments."""
DAYS_KEPT: Final = 32
"""Days whose impressions are kept; a daily target reads that of today alone."""
LOG: Final = logging.getLogger("bentoml.marquee")


class CountersError(TryAgain):
    """The counters cannot be reached or refuse; nothing that has a cap or a budget can be shown meanwhile."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A cap as it is checked: at most ``most`` showings in ``window``, reaching which blocks for ``block`` (µs)."""

    most: int
    window: int
    block: int
    in_session: bool

    @classmethod
    def of(cls, cap: Cap) -> Limit:
        """The limit that a cap of the catalogue means."""
        in_session = cap.scope == "session"
        hours = SESSION_HOURS if in_session else cap.hours
        return cls(cap.most, round(hours * HOUR), round(cap.block_hours * HOUR), in_session)

    def forbids(self, shown: Iterable[tuple[int, str]], at: int, session: str) -> bool:
        """Whether one more showing at ``at`` would be too many.

        Args:
            shown: moment and session of each earlier showing, in any order; later ones than ``at`` count too, since
                requests are not answered in the order of their moments.
        """
        if not self.in_session:
            return self._is_full([moment for moment, _ in shown], at)
        by_session: dict[str, list[int]] = {}
        for moment, other in shown:
            by_session.setdefault(other, []).append(moment)
        if not self.block:
            return self._is_full(by_session.get(session, []), at)
        return any(self._is_full(moments, at, other == session) for other, moments in by_session.items())

    def _is_full(self, moments: list[int], at: int, is_current: bool = True) -> bool:
        most, before = self.most, at - self.window
        if len(moments) < most:
            return False
        moments.sort()
        if is_current and moments[-most] > before:
            return True
        return self.block > 0 and any(
            last + self.block > at and moments[place] > last - self.window
            for place, last in enumerate(moments[most - 1 :])
        )


@dataclass(frozen=True, slots=True)
class Shows:
    """What one visitor was shown of things that have a cap; four parallel lists, in the order of the showings.

    ``stored`` is the same as the store keeps it, for a store that can then see at once that nothing came between.
    """

    banner_ids: Sequence[str] = ()
    campaign_ids: Sequence[str] = ()
    at: Sequence[int] = ()
    sessions: Sequence[str] = ()
    stored: str | None = field(default=None, compare=False)

    @classmethod
    def none(cls) -> Shows:
        """Of a visitor who has seen nothing yet."""
        return _NO_SHOWS


_NO_SHOWS: Final = Shows()


@dataclass(frozen=True, slots=True)
class Spent:
    """Impressions of campaigns that have a budget or a daily target. A new reading is a new object.

    Attributes:
        total: by campaign.
        daily: by campaign and local day, as in ``Item.day``.
    """

    total: Mapping[str, int] = field(default_factory=dict)
    daily: Mapping[tuple[str, str], int] = field(default_factory=dict)

    @classmethod
    def none(cls) -> Spent:
        """Nothing yet."""
        return _NOTHING_SPENT


_NOTHING_SPENT: Final = Spent()


@dataclass(frozen=True, slots=True)
class Item:
    """One banner to be shown, with all that limits it, so that a store needs no catalogue.

    Attributes:
        budget: impressions of its campaign in all, None for no limit.
        day: the campaign's local day, as 2026-02-28.
        allowance: impressions of its campaign on that day up to now, None for no limit.
    """

    banner_id: str
    campaign_id: str
    banner_limits: tuple[Limit, ...] = ()
    campaign_limits: tuple[Limit, ...] = ()
    budget: int | None = None
    day: str = ""
    allowance: int | None = None

    @property
    def limits(self) -> tuple[Limit, ...]:
        """Of the banner and of its campaign."""
        return self.banner_limits + self.campaign_limits

    @property
    def is_spending(self) -> bool:
        """Whether its campaign's impressions are counted."""
        return self.budget is not None or self.allowance is not None

    @property
    def is_limited(self) -> bool:
        """Whether a store has anything to check."""
        return self.is_spending or bool(self.banner_limits or self.campaign_limits)

    @property
    def kept(self) -> int:
        """How long a showing matters, in µs."""
        return max((limit.window + limit.block for limit in self.limits), default=0) + SLACK


@dataclass(frozen=True, slots=True)
class Reservation:
    """What one request wants to show.

    Attributes:
        key: whom its showings count for (see ``visitor_key``); None for nobody, who gets nothing that has a cap.
        session: "" for none: then nothing that has a session's cap.
        at: µs.
        items: in the order of the slate.
        in_part: keep what can be had. Otherwise one refused item leaves the whole request uncounted, to be drawn anew.
        seen: what was read of the visitor for this request, if it was; it only spares the store a look.
    """

    key: str | None
    session: str
    at: int
    items: tuple[Item, ...]
    in_part: bool = False
    seen: Shows | None = None


def visitor_key(visitor_id: str | None, session_id: str | None) -> str | None:
    """Whom showings count for: the visitor, without a cookie the session, which no visitor's id is taken for."""
    if visitor_id is not None:
        return visitor_id
    return None if session_id is None else f"session {session_id}"
