"""Whether the promotion gate refuses bad bundles: six kinds in five degrees each, made from one honest bundle.

A bundle counts as refused when ``promote`` raises and the champion stays; for its reason, when a check that looks for
its kind is among those that failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from benchmarks import spoiled
from benchmarks.measure import marquee, say
from benchmarks.spoiled import Workshop
from marquee.errors import BundleError, GateError
from marquee.settings import load_settings, quiet_environment
from training import registry
from training.pipeline import require_latest_bundle
from training.promotion import judge, promote

Maker = Callable[[Workshop], str]
STEPS: Final = ("check", "transform", "check", "materialize", "train")
ASKER: Final = "bench"
UNREADABLE: Final = "BundleError"
FIT: Final[Mapping[str, frozenset[str]]] = {
    "worse": frozenset({"auc above chance", "auc above popular", "log loss", "not worse than champion"}),
    "leaking": frozenset({"leakage", "known by then"}),
    "miscalibrated": frozenset({"calibration", "calibration slope", "log loss", "log loss against champion"}),
    "feature-mismatched": frozenset({UNREADABLE, "skew", "own report"}),
    "slow": frozenset({"latency"}),
    "stale": frozenset({"data freshness"}),
}
"""Checks that look for what is wrong with each kind."""
BANNERS: Final = ("banner_id", "banner_impression_count_28d", "banner_click_count_28d")
VISITORS: Final = ("visitor_id", "visitor_impression_count_365d", "visitor_click_count_365d")
DEGREES: Final[Mapping[str, Mapping[str, Maker]]] = {
    "worse": {
        "all labels shuffled": partial(spoiled.shuffled, share=1.0),
        "three of four labels shuffled": partial(spoiled.shuffled, share=0.75),
        "matches hidden": spoiled.without_matches,
        "three trees": partial(spoiled.few_trees, rounds=3),
        "order turned round": partial(spoiled.miscalibrated, slope=-1.0),
    },
    "leaking": {
        **{f"by heart, depth {depth}": partial(spoiled.by_heart, depth=depth) for depth in (5, 8, 12)},
        "banners' clicks to come": partial(
            spoiled.with_the_future, who=BANNERS[0], impressions=BANNERS[1], clicks=BANNERS[2]
        ),
        "visitors' clicks to come": partial(
            spoiled.with_the_future, who=VISITORS[0], impressions=VISITORS[1], clicks=VISITORS[2]
        ),
    },
    "miscalibrated": {
        **{f"times {factor:g}": partial(spoiled.miscalibrated, factor=factor) for factor in (3.0, 4.0, 0.25)},
        **{f"slope {slope:g}": partial(spoiled.miscalibrated, slope=slope) for slope in (0.2, 4.0)},
    },
    "feature-mismatched": {
        "list": lambda shop: shop.with_manifest(spoiled.other_list),
        "order": spoiled.other_order,
        "service": lambda shop: shop.with_manifest(spoiled.other_service),
        "encoding": lambda shop: shop.with_manifest(spoiled.other_encoding),
        "names": spoiled.other_names,
    },
    "slow": {f"{times:g} times the limit": partial(spoiled.slow, times=times) for times in (1.2, 1.4, 1.6, 1.8, 2.0)},
}
TWINS: Final = 5


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of one bad bundle."""

    kind: str
    name: str
    refused: bool
    by: frozenset[str]

    @property
    def for_its_reason(self) -> bool:
        """Whether what failed is what is wrong with it."""
        return self.refused and bool(self.by & FIT[self.kind])


def bad_bundles(home: Path, seed: int, events: int = 60_000) -> dict[str, Any]:
    """Promote the honest bundle of the installation, then ask for each bad one.

    Args:
        home: an installation that ``build_installation`` made with this seed and number of events, and nothing since.

    Returns:
        Plain JSON values: ``bad_bundles``, ``bad_bundles_refused``, ``bad_bundles_for_its_reason``; ``by_kind`` and
        the bad bundles that ``passed``; ``honest_refused``, the checks that the honest bundle failed; and how many of
        ``honest_twins`` the gate would let in (``honest_twins_passing``).
    """
    settings = load_settings(home, events=events, seed=seed, quiet=True)
    os.environ.update(quiet_environment(settings))
    shop = Workshop(settings, require_latest_bundle(settings))
    honest_refused = _crown(shop)
    twins = [spoiled.honest_twin(shop, number) for number in range(1, TWINS + 1)]
    passing = [tag for tag in twins if all(check.passed for check in judge(settings, tag))]
    say(f"  {len(passing)} of {TWINS} honest bundles of other seeds would pass")
    verdicts = [_verdict(shop, *case) for case in _cases(twins)]
    return {
        **_summary(verdicts),
        "honest_refused": honest_refused,
        "honest_twins": TWINS,
        "honest_twins_passing": len(passing),
    }


def build_installation(home: Path, events: int, seed: int) -> None:
    """Simulate a shop, ingest, check, build, materialise and train, by the verbs."""
    home.parent.mkdir(parents=True, exist_ok=True)
    chosen: dict[str, Any] = {"events": events, "seed": seed}
    marquee("simulate", "--events", str(events), "--seed", str(seed), home=home, **chosen)
    for step in STEPS:
        done = marquee(step, home=home, **chosen)
        say(f"  {step}: {done.seconds:.1f} s")


def _crown(shop: Workshop) -> list[str]:
    """Make the honest bundle champion; the names of the checks that it failed, which a reason then overrides."""
    try:
        promote(shop.settings, shop.tag, ASKER)
    except GateError as error:
        say(f"  the honest bundle was refused: {error}")
        checks = promote(shop.settings, shop.tag, ASKER, override="the bench needs a champion")
        return [check.name for check in checks if not check.passed]
    return []


def _cases(twins: list[str]) -> Iterator[tuple[str, str, Maker]]:
    """Kind, name and maker of every bad bundle; those that change the warehouse come last."""
    for kind, degrees in DEGREES.items():
        for name, make in degrees.items():
            yield kind, name, make
    for number, tag in enumerate(twins, 1):
        yield "stale", f"{number} batches behind", partial(_left_behind, tag=tag)


def _left_behind(shop: Workshop, tag: str) -> str:
    """An honest bundle, once a batch more than before was admitted after its training."""
    shop.add_batch()
    return tag


def _verdict(shop: Workshop, kind: str, name: str, make: Maker) -> Verdict:
    before = registry.champion(shop.settings)
    try:
        by = _refusal(shop, make(shop))
    finally:
        shop.tidy()
    refused = bool(by) and registry.champion(shop.settings) == before
    say(f"  {kind}, {name}: {', '.join(sorted(by)) or 'PASSED'}")
    if registry.champion(shop.settings) != before:
        promote(shop.settings, before or "", ASKER, override="a bad bundle slipped through")
    return Verdict(kind, name, refused, by)


def _refusal(shop: Workshop, tag: str) -> frozenset[str]:
    """Names of the checks that refused the bundle, or of the error; none for one that became champion."""
    try:
        promote(shop.settings, tag, ASKER)
    except BundleError:
        return frozenset({UNREADABLE})
    except GateError:
        line = registry.history(shop.settings)[-1]
        return frozenset(check["name"] for check in line.checks if not check["passed"])
    return frozenset()


def _summary(verdicts: list[Verdict]) -> dict[str, Any]:
    by_kind: dict[str, Any] = {}
    for kind in FIT:
        own = [verdict for verdict in verdicts if verdict.kind == kind]
        by_kind[kind] = {
            "refused": sum(verdict.refused for verdict in own),
            "of": len(own),
            "for_its_reason": sum(verdict.for_its_reason for verdict in own),
            "by": sorted(frozenset().union(*(verdict.by for verdict in own))),
        }
    return {
        "bad_bundles": len(verdicts),
        "bad_bundles_refused": sum(verdict.refused for verdict in verdicts),
        "bad_bundles_for_its_reason": sum(verdict.for_its_reason for verdict in verdicts),
        "by_kind": by_kind,
        "passed": [f"{verdict.kind}: {verdict.name}" for verdict in verdicts if not verdict.refused],
    }
