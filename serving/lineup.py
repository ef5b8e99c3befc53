"""The bundles that one service process holds: the champion, the arms of a canary or an experiment, the shadow."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np

from features.matrix import BANNER_COUNTS, Floats
from features.moments import Moment, OnlineMoments
from features.patience import PAUSE_SECONDS
from features.store import OnlineFeatures
from marquee.experiment import Arm, Experiment, assign, read_experiment
from marquee.settings import Settings
from training import registry
from training.bundle import Bundle

FOLLOW_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 30.0
"""Until a bundle that could not be read is tried again."""
COUNTS_SECONDS: Final = 60.0
"""How long the banners' counts are kept before they are read again; they change once a day."""
CHAMPION: Final = "champion"
CANARY: Final = "canary"
LOG: Final = logging.getLogger("bentoml.marquee")


class Standing:
    """A bundle ready to answer, and its banners' counts as the online store has them."""

    def __init__(self, tag: str, bundle: Bundle, features: OnlineFeatures) -> None:
        self.tag, self.bundle, self.features = tag, bundle, features
        self.counts: dict[str, Floats] = {}
        self.counts_moment: Moment | None = None
        self.counted_at: datetime | None = None
        self._count_at = -math.inf

    @property
    def banner_counts(self) -> dict[str, Floats]:
        """[B] arrays of the banners' counts; NaN while the online store could not be asked."""
        return self.counts or dict.fromkeys(BANNER_COUNTS, np.full(len(self.bundle.catalogue), np.nan))

    def refresh(self, moments: OnlineMoments, clock: Callable[[], datetime]) -> None:
        """Take the counts from the online store when they are a minute old; while it is down, old ones stay."""
        if time.monotonic() < self._count_at:
            return
        ids, before, now = self.bundle.catalogue.banner_ids, moments.now(), clock()
        try:
            known = self.features.banners(ids, now)
        except Exception as error:  # whatever it raises, a page view still gets its banners
            self._count_at = time.monotonic() + PAUSE_SECONDS
            LOG.error("the banners' counts cannot be read, %s: %s", "old ones stay" if self.counts else "none", error)
            return
        self.counts_moment, self.counted_at = before if before == moments.now() else None, now
        self._count_at = time.monotonic() + COUNTS_SECONDS
        self.counts = {
            name: np.array([known[b][name] if b in known else np.nan for b in ids], dtype=np.float64)
            for name in BANNER_COUNTS
        }


@dataclass(frozen=True, slots=True)
class Inside:
    """Roles and the bundles ready for them, taken as one: a request must not see half of a switch."""

    roles: registry.Roles
    standing: dict[str, Standing]
    arms: Experiment | None

    @property
    def champion(self) -> Standing:
        """What answers when nothing else is said."""
        return self.standing[self.roles.champion or ""]


class Lineup:
    """Follows the record of promotions, looked up at most once a second.

    Raises:
        BundleError: no bundle has been promoted yet.
        SettingsError: the experiment's file describes none.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self.moments = OnlineMoments(settings)
        self._settings, self._clock = settings, clock
        self._features = OnlineFeatures(settings)
        self._inside = Inside(registry.Roles(), {}, None)
        self._retry_at: dict[str, float] = {}
        self._followed_at = -math.inf
        self._experiment = read_experiment(settings.experiment) if settings.experiment else None
        registry.require_champion(settings)
        self.follow()

    @property
    def roles(self) -> registry.Roles:
        """What is in force here."""
        return self._inside.roles

    @property
    def champion(self) -> Standing:
        """What answers when nothing else is said."""
        return self._inside.champion

    @property
    def shadow(self) -> Standing | None:
        """What is scored beside the answer, seen by nobody."""
        inside = self._inside
        return inside.standing.get(inside.roles.shadow or "")

    def answering(self, visitor_id: str, at: datetime) -> tuple[str, Standing]:
        """The arm that this visitor is in, and the bundle that answers there: the champion's while it has no other."""
        inside = self._inside
        if inside.arms is None:
            return CHAMPION, inside.champion
        arm = assign(inside.arms, visitor_id, at)
        standing = inside.standing.get(arm.bundle) if arm.bundle else inside.champion
        # An arm whose bundle is not there is not served under its name: its figures would be the champion's.
        return (arm.name, standing) if standing else (CHAMPION, inside.champion)

    def follow(self) -> None:
        """Switch to what was newly promoted, rolled back, or put on trial."""
        if time.monotonic() - self._followed_at < FOLLOW_SECONDS:
            return
        self._followed_at = time.monotonic()
        try:
            self._take(registry.roles(self._settings))
        except Exception as error:  # whatever is wrong with the record, the last good one still answers
            if not self._inside.standing:
                raise
            LOG.error("still serving %s: %s", self.champion.tag, error)
        for standing in self._inside.standing.values():
            standing.refresh(self.moments, self._clock)

    def _take(self, roles: registry.Roles) -> None:
        in_arms = [arm.bundle for arm in self._experiment.arms] if self._experiment else []
        wanted = {tag for tag in (roles.champion, roles.canary, roles.shadow, *in_arms) if tag}
        before = self._inside
        kept = {tag: standing for tag, standing in before.standing.items() if tag in wanted}
        for tag in sorted(wanted - set(kept)):
            # To read a bundle that is broken takes time from the answers, so it is not tried at every look.
            if time.monotonic() < self._retry_at.get(tag, -math.inf):
                continue
            try:
                kept[tag] = self._load(tag)
                kept[tag].refresh(self.moments, self._clock)
            except Exception as error:  # a trial that cannot be read is no reason to lose the champion
                if tag == roles.champion and not before.standing:
                    raise
                self._retry_at[tag] = time.monotonic() + RETRY_SECONDS
                LOG.error("bundle %s cannot be served: %s", tag, error)
        if roles.champion not in kept:
            kept[before.champion.tag] = before.champion
            roles = replace(roles, champion=before.champion.tag)
        self._inside = Inside(roles, kept, self._experiment or _canary(roles))

    def _load(self, tag: str) -> Standing:
        bundle = registry.load_bundle(self._settings, tag)
        service = registry.feature_service_name(tag)
        return Standing(tag, bundle, self._features.through(service, bundle.manifest["feature_service"]))


def _canary(roles: registry.Roles) -> Experiment | None:
    """A canary as an experiment of two arms, so that the same visitors stay in it while it grows."""
    if not roles.canary or not 0 < roles.share < 1:
        return None
    return Experiment(CANARY, (Arm(CHAMPION, 1 - roles.share), Arm(CANARY, roles.share, roles.canary)))
