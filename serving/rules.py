"""Which banners may be shown to this visitor here and now: the catalogue compiled to arrays, a few of them a request.

Rules that no record uses cost nothing, and what depends on the place and the visitor's kind alone is worked out once.
No clock, no network, no disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from features.session import microseconds
from marquee.catalogue import Banner, Campaign, Placement
from serving.budgets import Budgets, allowance
from serving.calendar import Calendar, forbidden
from serving.caps import Caps
from serving.rule import Ask, Codes, Rule
from serving.showings import Item, Reservation, Shows, Spent, visitor_key
from serving.targeting import Choice, Pages

__all__ = ["Ask", "Codes", "Rule", "Rules"]
Ints = NDArray[np.int64]
MOST_PLACES: Final = 1_024
"""Places and kinds of visitors of which is remembered what may be shown there."""
HOUSE_TIER: Final = -10_000
"""Added to the priority of house banners, which is more than all priorities differ by."""
_NO_CAMPAIGN: Final = Campaign(campaign_id="?", starts_at=datetime(1970, 1, 1), ends_at=datetime(1970, 1, 2))
_NO_BANNER: Final = Banner(banner_id="?", campaign_id="?")


class Rules:
    """The rules of one catalogue over B banners; made by ``of``.

    Attributes:
        groups: [B] competitive separation, of each group a slate holds one banner; -1 for none; None if all are.
        limited: [B] whether a showing must be reserved: the banner or its campaign has a cap, budget or daily target.
    """

    def __init__(
        self,
        banners: Sequence[Banner],
        campaigns: Sequence[Campaign],
        campaign_of: Ints,
        placements: Mapping[str, Placement],
        unavailable: frozenset[str],
    ) -> None:
        self._campaigns, self._campaign_of, self._placements = campaigns, campaign_of, placements
        rows = campaign_of.tolist()
        firsts = [_first(banner, campaigns[row], unavailable) for banner, row in zip(banners, rows, strict=True)]
        self._fixed: Codes = np.array(firsts, dtype=np.uint8) - np.uint8(1)
        self._calendar = Calendar(campaigns)
        self._budgets = Budgets(campaigns, self._calendar)
        self._caps = Caps(banners, campaigns, campaign_of)
        self._items = [
            Item(banner.banner_id, banner.campaign_id, self._caps.own[place], self._caps.shared[row])
            for place, (banner, row) in enumerate(zip(banners, rows, strict=True))
        ]
        spends = [one.budget is not None or one.daily_target is not None for one in campaigns]
        self.limited: NDArray[np.bool_] = self._caps.is_capped | np.array(spends, dtype=bool)[campaign_of]
        self._running: tuple[tuple[int, int], Codes] | None = None
        self._places: dict[tuple[object, ...], Codes] = {}
        self._choose(banners)
        self._rank()

    @classmethod
    def of(
        cls,
        banner_ids: Sequence[str],
        campaigns: Mapping[str, Campaign],
        banners: Mapping[str, Banner],
        placements: Mapping[str, Placement],
        unavailable: frozenset[str],
    ) -> Rules:
        """Compile the rules for banners in this order.

        Args:
            unavailable: ids of products that cannot be had.
        """
        known = [banners.get(banner_id, _NO_BANNER) for banner_id in banner_ids]
        named = sorted({banner.campaign_id for banner in known} & campaigns.keys())
        rows = {campaign_id: row for row, campaign_id in enumerate(named)}
        campaign_of = np.array([rows.get(banner.campaign_id, len(named)) for banner in known], dtype=np.int64)
        own = [*(campaigns[campaign_id] for campaign_id in named), _NO_CAMPAIGN]
        return cls(known, own, campaign_of, placements, unavailable)

    def _choose(self, banners: Sequence[Banner]) -> None:
        aims = [campaign.targeting for campaign in self._campaigns]
        self._stands = Choice.of([banner.placements for banner in banners])
        self._devices = Choice.of([aim.devices for aim in aims])
        self._segments = Choice.of([aim.segments for aim in aims])
        self._paths = Choice.of([aim.pages for aim in aims])
        self._pages = Pages.of(self._paths.values)
        self._countries = Choice.of([aim.countries for aim in aims])

    def _rank(self) -> None:
        campaigns, order = self._campaigns, self._campaign_of
        words = sorted({one.competes_in for one in campaigns if one.competes_in is not None})
        groups = [words.index(one.competes_in) if one.competes_in is not None else -1 for one in campaigns]
        self.groups: Ints | None = np.array(groups, dtype=np.int64)[order] if words else None
        tiers = [one.priority + HOUSE_TIER * one.is_house for one in campaigns]
        self._tiers = np.array(tiers, dtype=np.int64)[order]
        house = np.array([one.is_house for one in campaigns], dtype=bool)[order]
        self._others = ~house if house.any() else None
        exclusive = [row for row, one in enumerate(campaigns) if one.is_exclusive]
        exclusive.sort(key=lambda row: (-tiers[row], campaigns[row].campaign_id))
        ranks = np.full(len(campaigns), len(campaigns), dtype=np.int64)
        ranks[exclusive] = np.arange(len(exclusive))
        self._ranks = ranks[order] if exclusive else None

    # --- asking -------------------------------------------------------------------------------------------------------

    def forbidding(self, ask: Ask, shows: Shows, spent: Spent) -> Codes:
        """[B] code of the first ``Rule`` that forbids each banner, 0 where it may be shown.

        Args:
            shows: of ``visitor_key(ask.visitor_id, ask.session_id)``.
            spent: a new object whenever it has changed.
        """
        at = microseconds(ask.at)
        codes: Codes = np.minimum(self._place(ask), self._calendar_codes(at))
        if self._budgets.are_any:
            np.minimum(codes, self._budgets.codes(at, spent)[self._campaign_of], out=codes)
        if self._caps.are_any:
            self._caps.apply(codes, ask, shows, at)
        codes += np.uint8(1)
        return self.settle(codes)

    def settle(self, codes: Codes) -> Codes:
        """Apply, in place, the rules that depend on what else may be shown: exclusive campaigns and house banners.

        To be called again after further banners were forbidden: a house banner may be needed then.
        """
        if self._others is None and self._ranks is None:
            return codes
        codes[codes >= Rule.EXCLUSIVE_ELSEWHERE] = Rule.MAY_BE_SHOWN
        if self._others is not None and ((codes == 0) & self._others).any():
            codes[(codes == 0) & ~self._others] = Rule.NOT_NEEDED
        if self._ranks is not None and len(ranks := self._ranks[codes == 0]):
            first = ranks.min()
            if first < len(self._campaigns):
                codes[(codes == 0) & (self._ranks != first)] = Rule.EXCLUSIVE_ELSEWHERE
        return codes

    def tiers(self, codes: Codes) -> Ints | None:
        """[B] priorities, of which higher ones fill a slate first; None if those that may be shown are of one."""
        open_tiers = self._tiers[codes == 0]
        return self._tiers if len(open_tiers) and open_tiers.min() < open_tiers.max() else None

    def slots(self, placement_id: str, n: int) -> int:
        """How many of n banners a placement holds."""
        placement = self._placements.get(placement_id)
        return n if placement is None else min(n, placement.slots)

    def reservation(self, ask: Ask, rows: Sequence[int], in_part: bool = False) -> Reservation:
        """What to reserve before these banners (rows, in the order of the slate) are shown."""
        at = microseconds(ask.at)
        items = tuple(self._item(row, at) for row in rows)
        return Reservation(visitor_key(ask.visitor_id, ask.session_id), ask.session_id or "", at, items, in_part)

    def _item(self, row: int, at: int) -> Item:
        item, campaign = self._items[row], self._campaigns[number := int(self._campaign_of[row])]
        if campaign.budget is None and campaign.daily_target is None:
            return item
        day = self._calendar.days(at)[self._calendar.zone_of[number]]
        most = allowance(campaign, day, at)
        limits = item.banner_limits, item.campaign_limits
        return Item(item.banner_id, item.campaign_id, *limits, campaign.budget, day.name, most)

    def _calendar_codes(self, at: int) -> Codes:
        """[B] less one; the same array until a campaign begins or ends."""
        state = self._calendar.state(at)
        known = self._running
        if known is None or known[0] != state:
            self._running = known = (state, self._calendar.codes(at)[self._campaign_of])
        return known[1]

    def _place(self, ask: Ask) -> Codes:
        """[B] less one, of all that no clock and no counter changes."""
        paths, segments = self._pages.fitting(ask.page), ask.segments & self._segments.values
        placement_id = ask.placement_id if self._knows(ask.placement_id) else ""
        device = ask.device if ask.device in self._devices.values else ""
        country = ask.country if ask.country in self._countries.values else ""
        key = (placement_id, device, country, paths, segments)
        if (codes := self._places.get(key)) is None:
            if len(self._places) >= MOST_PLACES:
                self._places.clear()
            chosen = (self._segments, segments), (self._paths, paths), (self._devices, [device])
            codes = self._placed(placement_id, (*chosen, (self._countries, [country] if country else [])))
            self._places[key] = codes
        return codes

    def _knows(self, placement_id: str) -> bool:
        return placement_id in self._stands.values or placement_id in self._placements

    def _placed(self, placement_id: str, chosen: Sequence[tuple[Choice, Sequence[str] | frozenset[str]]]) -> Codes:
        codes = self._fixed.copy()
        rules = (Rule.OTHER_SEGMENT, Rule.OTHER_PAGE, Rule.OTHER_DEVICE, Rule.OTHER_COUNTRY)
        for rule, (choice, values) in zip(rules, chosen, strict=True):
            np.minimum(codes, forbidden(choice.misses(values), rule)[self._campaign_of], out=codes)
        np.minimum(codes, forbidden(self._stands.misses([placement_id]), Rule.OTHER_PLACEMENT), out=codes)
        placement = self._placements.get(placement_id)
        if placement is not None and placement.status != "active":
            np.minimum(codes, np.uint8(Rule.PLACEMENT_PAUSED - 1), out=codes)
        return codes


def _first(banner: Banner, campaign: Campaign, unavailable: frozenset[str]) -> Rule:
    """The first rule that forbids a banner whoever asks."""
    if banner is _NO_BANNER:
        return Rule.UNKNOWN_BANNER
    if campaign is _NO_CAMPAIGN:
        return Rule.UNKNOWN_CAMPAIGN
    if campaign.status != "active":
        return Rule.CAMPAIGN_PAUSED
    if banner.status != "active":
        return Rule.BANNER_PAUSED
    if banner.product_ids and unavailable.issuperset(banner.product_ids):
        return Rule.UNAVAILABLE
    return Rule.MAY_BE_SHOWN
