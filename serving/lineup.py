"""The bundles that one service process holds: the champion, the arms of a canary or an experiment, the shadow.

Each stands over the catalogue as it is managed now. One thread keeps both up; a request takes what stands and waits
for nobody.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Final

import numpy as np
from prometheus_client import Gauge

from features.matrix import BANNER_COUNTS, Floats
from features.moments import OnlineMoments
from features.online_reads import VisitorReads, open_visitor_reads
from features.patience import PAUSE_SECONDS
from features.products import Products, ShopProducts
from features.store import OnlineFeatures
from ingestion.catalogue_store import CatalogueStore, Managed, open_catalogue_store
from marquee.experiment import Arm, Experiment, assign, read_experiment
from marquee.settings import Settings
from serving.decision import Board
from serving.live_catalogue import merge
from serving.recommend import Allowed, RequestChance, recommend
from training import registry
from training.bundle import Bundle, Context

FOLLOW_SECONDS: Final = 0.25
"""How often promotions and the catalogue are looked up: both are live within a second."""
RETRY_SECONDS: Final = 30.0
"""Until a bundle that could not be read is tried again."""
COUNTS_SECONDS: Final = 60.0
"""How long the banners' counts are kept before they are read again; they change once a day."""
CHAMPION: Final = "champion"
CANARY: Final = "canary"
LOG: Final = logging.getLogger("bentoml.marquee")
COUNTS_AGE: Final = Gauge(
    "marquee_banner_counts_age_seconds", "Since the banners' counts were read.", multiprocess_mode="max"
)
CATALOGUE: Final = Gauge(
    "marquee_catalogue_version", "Version of the managed catalogue that answers.", multiprocess_mode="min"
)


class Standing:
    """A bundle ready to answer over the live catalogue, and its banners' counts as the online store has them."""

    def __init__(
        self,
        tag: str,
        bundle: Bundle,
        features: OnlineFeatures,
        reads: VisitorReads,
        managed: Managed,
        products: Products,
    ) -> None:
        self.tag, self.trained, self.features, self.reads = tag, bundle, features, reads
        self._count_at = -math.inf
        live = merge(bundle.catalogue, managed, products)
        self.board = Board(tag, bundle.with_catalogue(live.catalogue), live)

    @property
    def bundle(self) -> Bundle:
        """The bundle over the live catalogue."""
        return self.board.bundle

    @property
    def banner_counts(self) -> dict[str, Floats]:
        """[B] arrays of the banners' counts; NaN while the online store could not be asked."""
        return self.board.counts

    def warm(self, now: datetime) -> None:
        """Make an answer that nobody sees: what is worked out at the first one would make it late."""
        board, context = self.board, Context("", "unknown", np.datetime64(now, "us"))
        every = Allowed(np.ones(len(board.bundle.catalogue), dtype=bool))
        recommend(board.bundle, context, 1, None, board.counts, RequestChance("warm"), allowed=every)
        with suppress(Exception):  # a store that is down is asked again by the first request
            self.reads.read("", now)

    def stand_over(self, managed: Managed, products: Products) -> None:
        """Take the catalogue as it is managed now; what is known of the banners' counts stays."""
        before, live = self.board, merge(self.trained.catalogue, managed, products)
        bundle = self.trained.with_catalogue(live.catalogue)
        known = {banner: row for row, banner in enumerate(before.bundle.catalogue.banner_ids)}
        rows = [known.get(banner, -1) for banner in bundle.catalogue.banner_ids]
        counts = {name: np.append(values, np.nan)[rows] for name, values in before.counts.items()}
        self.board = Board(self.tag, bundle, live, counts, before.counts_moment, before.counted_at)

    def refresh(self, moments: OnlineMoments, clock: Callable[[], datetime]) -> None:
        """Take the counts from the online store when they are a minute old; while it is down, old ones stay."""
        if time.monotonic() < self._count_at:
            return
        board, before, now = self.board, moments.now(), clock()
        ids = board.bundle.catalogue.banner_ids
        try:
            known = self.features.banners(ids, now)
        except Exception as error:  # whatever it raises, a page view still gets its banners
            self._count_at = time.monotonic() + PAUSE_SECONDS
            kept = "old ones stay" if board.counted_at else "none"
            LOG.error("the banners' counts cannot be read, %s: %s", kept, error)
            return
        self._count_at = time.monotonic() + COUNTS_SECONDS
        counts = {
            name: np.array([known[b][name] if b in known else np.nan for b in ids], dtype=np.float64)
            for name in BANNER_COUNTS
        }
        moment = before if before == moments.now() else None
        if all(np.array_equal(counts[name], board.counts[name], equal_nan=True) for name in BANNER_COUNTS):
            board.counts_moment, board.counted_at = moment, now
        else:
            self.board = Board(self.tag, board.bundle, board.live, counts, moment, now)


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
    """Follows the record of promotions and the managed catalogue.

    Raises:
        BundleError: no bundle has been promoted yet.
        SettingsError: the experiment's file describes none.
    """

    def __init__(self, settings: Settings, clock: Callable[[], datetime]) -> None:
        self.moments = OnlineMoments(settings)
        self.moment = self.moments.now()
        """Of what is online, as it was at the last look."""
        self.catalogue: CatalogueStore = open_catalogue_store(settings)
        self._settings, self._clock = settings, clock
        self._features = OnlineFeatures(settings)
        self._inside = Inside(registry.Roles(), {}, None)
        self._managed, self._products = Managed(), Products()
        self._shop = ShopProducts(settings)
        self._retry_at: dict[str, float] = {}
        self._followed_at = -math.inf
        self._experiment = read_experiment(settings.experiment) if settings.experiment else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="lineup", daemon=True)
        registry.require_champion(settings)
        self.follow()

    def start(self) -> None:
        """Follow from now on, in a thread of its own."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the look under way."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def is_followed(self) -> bool:
        """Whether a thread keeps it up; else whoever asks calls ``follow``."""
        return self._thread.is_alive()

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
        """Switch to what was newly promoted, rolled back, or put on trial, and to the catalogue as it is now."""
        if time.monotonic() - self._followed_at < FOLLOW_SECONDS:
            return
        self._followed_at = time.monotonic()
        self.moment = self.moments.now()
        self._follow_catalogue()
        try:
            self._take(registry.roles(self._settings))
        except Exception as error:  # whatever is wrong with the record, the last good one still answers
            if not self._inside.standing:
                raise
            LOG.error("still serving %s: %s", self.champion.tag, error)
        for standing in self._inside.standing.values():
            standing.refresh(self.moments, self._clock)
        if counted_at := self.champion.board.counted_at:
            COUNTS_AGE.set((self._clock() - counted_at).total_seconds())

    def _run(self) -> None:
        while not self._stop.wait(FOLLOW_SECONDS):
            try:
                self.follow()
            except Exception as error:  # what stands keeps answering
                LOG.error("still serving %s: %s", self.champion.tag, error)

    def _follow_catalogue(self) -> None:
        try:
            products = self._shop.now()
            is_known = self.catalogue.version() == self._managed.version and products is self._products
            if is_known and self._inside.standing:
                return
            managed = self.catalogue.read()
        except Exception as error:  # the catalogue as it was last known is better than none
            LOG.error("the managed catalogue cannot be read, the last known one stays: %s", error)
            return
        for standing in self._inside.standing.values():
            standing.stand_over(managed, products)
        self._managed, self._products = managed, products
        CATALOGUE.set(self._managed.version)

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
        service, reads = registry.feature_service_name(tag), bundle.manifest["feature_service"]
        features = self._features.through(service, reads)
        own = open_visitor_reads(self._settings, reads)
        standing = Standing(tag, bundle, features, own, self._managed, self._products)
        standing.warm(self._clock())
        return standing


def _canary(roles: registry.Roles) -> Experiment | None:
    """A canary as an experiment of two arms, so that the same visitors stay in it while it grows."""
    if not roles.canary or not 0 < roles.share < 1:
        return None
    return Experiment(CANARY, (Arm(CHAMPION, 1 - roles.share), Arm(CANARY, roles.share, roles.canary)))
