"""What the bad-bundle bench makes is bad as it says, and the rollback bench counts what clients were told."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import bad_bundles, rollback, spoiled
from benchmarks.rollback import Answer, Traffic
from benchmarks.spoiled import Workshop, bent
from marquee.settings import Settings
from training import registry
from training.calibration import Beta, Calibration, Isotonic, Platt
from training.pipeline import require_latest_bundle

pytestmark = pytest.mark.tools


@pytest.fixture
def shop(copied: Callable[[Path], Settings], tmp_path: Path) -> Workshop:
    settings = copied(tmp_path / "home")
    return Workshop(settings, require_latest_bundle(settings))


def test_there_are_six_kinds_in_five_degrees_and_a_fit_check_for_each() -> None:
    kinds = {**{kind: len(degrees) for kind, degrees in bad_bundles.DEGREES.items()}, "stale": bad_bundles.TWINS}
    assert kinds == dict.fromkeys(bad_bundles.FIT, 5)


@pytest.mark.parametrize("known", [Platt(0.9, -0.3), Beta(0.8, 1.2, 0.1), Isotonic((-4.0, -2.0), (-3.5, -2.5), 0.7)])
def test_bent_calibrations_are_the_same_log_odds_stretched_and_shifted(known: Calibration) -> None:
    raw = np.array([0.001, 0.02, 0.05, 0.3])
    told, other = known.apply(raw), bent(known, 0.2, -1.0).apply(raw)
    assert np.allclose(np.log(other / (1 - other)), 0.2 * np.log(told / (1 - told)) - 1.0)


def test_a_repeated_catalogue_keeps_the_rows_that_there_were(shop: Workshop) -> None:
    tag = shop.with_manifest(lambda manifest: spoiled.repeat(manifest, 3))
    bundle, banners = registry.load_bundle(shop.settings, tag), shop.bundle.catalogue.banner_ids
    assert (len(bundle.catalogue), bundle.candidates) == (3 * len(banners),) * 2
    assert bundle.catalogue.banner_ids[: len(banners)] == banners


def test_what_counts_the_future_says_so_in_its_report_and_leaves_the_training_set_as_it_was(shop: Workshop) -> None:
    before = shop.training_set.read_bytes()
    tag = bad_bundles.DEGREES["leaking"]["visitors' clicks to come"](shop)
    assert shop.training_set.read_bytes() != before
    shop.tidy()
    assert shop.training_set.read_bytes() == before
    told, honest = (
        one.report["ranker"]["auc"]["value"] for one in (registry.load_bundle(shop.settings, tag), shop.bundle)
    )
    assert told > honest + 0.05


def test_a_bad_bundle_is_asked_for_and_the_champion_stays(shop: Workshop) -> None:
    assert bad_bundles._crown(shop) == []
    for kind, name in (("worse", "order turned round"), ("miscalibrated", "times 4"), ("feature-mismatched", "names")):
        verdict = bad_bundles._verdict(shop, kind, name, bad_bundles.DEGREES[kind][name])
        assert verdict.for_its_reason
        assert registry.champion(shop.settings) == shop.tag


def test_a_switch_is_done_with_the_first_answer_after_the_last_wrong_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollback, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(rollback, "MOST_SECONDS", 0.3)
    since = time.monotonic() - 10
    told: list[tuple[float, Any]] = [(-1, "b"), (1, "b"), (2, "a"), (3, "b"), (4, None), (5, "a"), (6, "a")]
    traffic = Traffic("", [], [Answer(since + at, bundle) for at, bundle in told])
    assert traffic.settled("a", since) == pytest.approx(5)
    with pytest.raises(TimeoutError):
        traffic.settled("b", since)
