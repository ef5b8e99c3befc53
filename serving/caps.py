"""How often one visitor may see a banner or a campaign, over the showings that are known. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from marquee.catalogue import Banner, Campaign
from serving.calendar import forbidden
from serving.rule import Ask, Codes, Rule
from serving.showings import Limit, Shows

Limits = tuple[Limit, ...]


class Caps:
    """Caps of B banners and C campaigns, of which few have any.

    Attributes:
        own, shared: [B] limits of each banner, [C] of each campaign.
        is_capped: [B] whether the banner or its campaign has a cap.
    """

    def __init__(
        self, banners: Sequence[Banner], campaigns: Sequence[Campaign], campaign_of: NDArray[np.int64]
    ) -> None:
        self.own: Final[list[Limits]] = [tuple(map(Limit.of, banner.caps)) for banner in banners]
        self.shared: Final[list[Limits]] = [tuple(map(Limit.of, campaign.caps)) for campaign in campaigns]
        both = [limits + self.shared[row] for limits, row in zip(self.own, campaign_of.tolist(), strict=True)]
        self.is_capped: Final = np.array([bool(limits) for limits in both], dtype=bool)
        self._banners = {one.banner_id: (row, self.own[row]) for row, one in enumerate(banners) if self.own[row]}
        self._campaigns = {
            one.campaign_id: (np.flatnonzero(campaign_of == row), self.shared[row])
            for row, one in enumerate(campaigns)
            if self.shared[row]
        }
        self._of_nobody = forbidden(self.is_capped, Rule.CANNOT_COUNT)
        in_session = np.array([any(limit.in_session for limit in limits) for limits in both], dtype=bool)
        self._of_no_session = forbidden(in_session, Rule.CANNOT_COUNT)

    @property
    def are_any(self) -> bool:
        """Whether anything has a cap."""
        return bool(self._banners or self._campaigns)

    def apply(self, codes: Codes, ask: Ask, shows: Shows, at: int) -> None:
        """Forbid, in place among codes less one, what the visitor has seen enough of at a moment (µs)."""
        if ask.session_id is None:
            np.minimum(codes, self._of_nobody if ask.visitor_id is None else self._of_no_session, out=codes)
        session = ask.session_id or ""
        for (name, is_banner), shown in self._seen(shows).items():
            rows, limits = self._banners[name] if is_banner else self._campaigns[name]
            if any(limit.forbids(shown, at, session) for limit in limits):
                code = (Rule.BANNER_CAP if is_banner else Rule.CAMPAIGN_CAP) - 1
                codes[rows] = np.minimum(codes[rows], np.uint8(code))

    def _seen(self, shows: Shows) -> dict[tuple[str, bool], list[tuple[int, str]]]:
        """Showings of each banner (True) and campaign (False) with caps."""
        seen: dict[tuple[str, bool], list[tuple[int, str]]] = {}
        each = zip(shows.banner_ids, shows.campaign_ids, shows.at, shows.sessions, strict=True)
        for banner_id, campaign_id, moment, session in each:
            if banner_id in self._banners:
                seen.setdefault((banner_id, True), []).append((moment, session))
            if campaign_id in self._campaigns:
                seen.setdefault((campaign_id, False), []).append((moment, session))
        return seen
