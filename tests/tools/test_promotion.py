"""The promotion gate on a real installation: an honest bundle passes, each kind of bad one is refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ingestion.batch import Batch, records
from ingestion.load import admit_batch, ingest
from marquee import contract
from marquee.errors import BundleError, GateError
from marquee.settings import Settings
from training import promotion, registry
from training.bundle import Bundle
from training.calibration import Platt, fit_calibration
from training.comparison import HARM_MARGIN
from training.dataset import Dataset, load_dataset
from training.pipeline import assemble_bundle, require_latest_bundle
from training.promotion import Check, judge, promote
from training.ranker import Ranker, RankerSettings, fit_ranker

pytestmark = pytest.mark.tools
CHECKS = (
    "auc above chance",
    "auc above popular",
    "log loss",
    "calibration",
    "calibration slope",
    "own report",
    "leakage",
    "known by then",
    "robustness",
    "off-policy value",
    "not worse than champion",
    "log loss against champion",
    "segment harm",
    "list stability",
    "segment harm against popular",
    "skew",
    "latency",
    "size",
    "data freshness",
)
NOW = datetime(2026, 2, 3)


@pytest.fixture
def settings(copied: Callable[[Path], Settings], tmp_path: Path) -> Settings:
    return copied(tmp_path / "home")


@pytest.fixture
def honest(settings: Settings) -> str:
    return require_latest_bundle(settings)


def failed(checks: list[Check]) -> set[str]:
    assert tuple(check.name for check in checks) == CHECKS
    return {check.name for check in checks if not check.passed}


def edited(settings: Settings, tag: str, file: str, change: Callable[[dict[str, Any]], object]) -> str:
    """The bundle with one of its JSON files changed, stored as another; its tag."""
    folder = settings.home / "edited"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(registry.bundle_folder(settings, tag), folder)
    values = json.loads((folder / file).read_text(encoding="utf-8"))
    change(values)
    (folder / file).write_text(json.dumps(values), encoding="utf-8")
    other = registry.store_bundle(settings, folder)
    assert other != tag
    return other


def twin(settings: Settings, tag: str) -> str:
    """A bundle as good as this one, with another tag."""
    return edited(settings, tag, "manifest.json", lambda m: m["policy"].update(exploration=0.1))


def refused(settings: Settings, tag: str) -> set[str]:
    """Names of the checks for which the gate refuses the bundle; also proves that they are told and recorded."""
    before = registry.champion(settings)
    with pytest.raises(GateError) as told:
        promote(settings, tag, "ada")
    names = failed(judge(settings, tag))
    assert str(told.value).startswith(f"{tag} was not promoted. ")
    assert all(f"{name}: " in str(told.value) for name in names)
    last = registry.history(settings)[-1]
    assert (last.tag, last.action, last.by) == (tag, "refused", "ada")
    assert {check["name"] for check in last.checks if not check["passed"]} == names
    assert registry.champion(settings) == before
    return names


def test_an_honest_bundle_passes_every_check_and_is_recorded(settings: Settings, honest: str) -> None:
    assert registry.champion(settings) is None
    checks = promote(settings, honest, "ada")
    assert failed(checks) == set()
    measured = {check.name: check.value for check in checks}
    assert measured["skew"] == pytest.approx(0, abs=1e-6)
    assert 0 < (measured["latency"] or 0) < promotion.LATENCY_LIMIT_MS
    assert 0.01 < (measured["size"] or 0) < 10
    (line,) = registry.history(settings)
    assert (line.tag, line.action, line.by, line.reason) == (honest, "promoted", "ada", "all checks passed")
    assert [check["name"] for check in line.checks] == list(CHECKS)
    assert registry.champion(settings) == honest
    promote(settings, honest, "ada")
    assert len(registry.history(settings)) == 1, "the champion is not promoted twice"


def test_a_ranker_fitted_on_shuffled_labels_is_refused(settings: Settings, honest: str) -> None:
    data = load_dataset(settings)
    shuffled = np.random.default_rng(1).permutation(data.clicked)
    fit_ranker(replace(data, clicked=shuffled), RankerSettings()).save(settings.home / "training")
    worse = assemble_bundle(settings)
    assert worse != honest
    assert "auc above popular" in refused(settings, worse)


def test_probabilities_four_times_too_high_are_refused(settings: Settings) -> None:
    ranker = Ranker.load(settings.home / "training")
    data = load_dataset(settings)
    told = ranker.booster.inplace_predict(data.matrix, validate_features=False)
    known = fit_calibration(told, data.clicked)
    assert isinstance(known, Platt)
    Ranker(ranker.booster, replace(known, intercept=known.intercept + np.log(4))).save(settings.home / "training")
    names = refused(settings, assemble_bundle(settings))
    assert names >= {"calibration", "log loss"}
    assert not names & {"auc above chance", "auc above popular", "skew"}, "the order of the banners is unharmed"


def value_of(low: float) -> Callable[[dict[str, Any]], None]:
    def change(report: dict[str, Any]) -> None:
        interval = {"value": low + 0.01, "low": low, "high": low + 0.02}
        report["policy"] = {"value": interval, "logged": {"value": 0.06, "low": 0.05, "high": 0.07}}
        report["policy"] |= {"ess": 500.0, "rows": 1000}

    return change


def test_an_off_policy_value_below_the_logged_one_is_refused(settings: Settings, honest: str) -> None:
    assert refused(settings, edited(settings, honest, "report.json", value_of(0.04))) == {"off-policy value"}
    assert failed(judge(settings, edited(settings, honest, "report.json", value_of(0.06)))) == set()


def fitted(settings: Settings, change: Callable[[Dataset], Dataset], rounds: int = 500) -> str:
    """A bundle whose ranker was fitted on other data than it should, and whose report is its own."""
    fit_ranker(change(load_dataset(settings)), RankerSettings(rounds=rounds)).save(settings.home / "training")
    return assemble_bundle(settings)


def without_matches(data: Dataset) -> Dataset:
    """Who likes what is not to be seen."""
    matrix = data.matrix.copy()
    for place, name in enumerate(contract.RANKER_FEATURES):
        if name.endswith(("_match", "_cosine")) or name == "last_category_share":
            matrix[:, place] = 0.0
    return replace(data, matrix=matrix)


def with_the_future(data: Dataset) -> Dataset:
    """The held-out window is learned by heart."""
    everything = np.arange(len(data.clicked))
    split = replace(data.split, train=np.tile(data.split.test, 20), validation=everything)
    return replace(data, split=split)


def test_a_bundle_worse_than_the_champion_is_refused(settings: Settings, honest: str) -> None:
    promote(settings, honest, "ada")
    worse = fitted(settings, without_matches)
    assert refused(settings, worse) >= {"not worse than champion"}
    rows = {check.name: check for check in judge(settings, worse)}
    assert (rows["not worse than champion"].value or 0.0) < -HARM_MARGIN
    promote(settings, twin(settings, honest), "ada")


def test_a_ranker_that_knows_the_future_is_refused(settings: Settings, honest: str) -> None:
    deep = RankerSettings(max_depth=12, min_child_weight=1.0, learning_rate=0.3, rounds=80)
    fit_ranker(with_the_future(load_dataset(settings)), deep).save(settings.home / "training")
    assert "leakage" in refused(settings, assemble_bundle(settings))


def test_a_report_that_is_not_the_bundles_own_is_refused(settings: Settings, honest: str) -> None:
    def boast(report: dict[str, Any]) -> None:
        report["ranker"]["auc"] |= {"low": 0.9, "value": 0.91, "high": 0.92}

    assert refused(settings, edited(settings, honest, "report.json", boast)) == {"own report"}


def test_features_served_otherwise_than_trained_are_refused(settings: Settings, honest: str) -> None:
    def reorder(manifest: dict[str, Any]) -> None:
        manifest["encoding"]["placements"].reverse()

    assert refused(settings, edited(settings, honest, "manifest.json", reorder)) == {"skew"}


def test_too_slow_and_too_large_are_refused(settings: Settings, honest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(promotion, "LATENCY_LIMIT_MS", 0.001)
    monkeypatch.setattr(promotion, "SIZE_LIMIT_MB", 0.001)
    assert refused(settings, honest) == {"latency", "size"}


def add_a_batch(settings: Settings) -> None:
    row = {"event_id": "late", "kind": "page_view", "occurred_at": NOW, "visitor_id": "v000001"}

    class Late:
        name = "late"

        def read(self) -> Any:
            yield Batch("events", records(contract.EVENTS, [row]))

    admit_batch(settings, ingest(Late(), settings).batch_id)


def test_a_bundle_of_an_older_warehouse_is_refused_unless_a_person_says_why(settings: Settings, honest: str) -> None:
    add_a_batch(settings)
    assert refused(settings, honest) == {"data freshness"}
    checks = promote(settings, honest, "grace", override="one page view tells nothing new")
    assert failed(checks) == {"data freshness"}
    last = registry.history(settings)[-1]
    assert (last.action, last.by) == ("promoted", "grace")
    assert last.reason == "override: one page view tells nothing new"
    assert [check["name"] for check in last.checks if not check["passed"]] == ["data freshness"]
    assert registry.champion(settings) == honest


def test_a_bundle_for_other_features_is_refused_whatever_the_reason(settings: Settings, honest: str) -> None:
    other = edited(settings, honest, "manifest.json", lambda m: m.update(feature_hash="0" * 12))
    for override in (None, "we need it"):
        with pytest.raises(BundleError, match="made for other features than this version serves; train again"):
            promote(settings, other, "ada", override)
    assert registry.champion(settings) is None


@pytest.mark.parametrize("file", ["towers.npz", "ranker.ubj", "calibration.json", "manifest.json", "report.json"])
def test_one_byte_changed_in_the_store_is_noticed(settings: Settings, honest: str, file: str) -> None:
    path = registry.bundle_folder(settings, honest) / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(BundleError, match=f"{honest}: its files were changed after it was stored"):
        promote(settings, honest, "ada", override="we need it")
    assert registry.champion(settings) is None


def test_a_champion_made_for_other_features_does_not_block_its_successor(settings: Settings, honest: str) -> None:
    """As after an upgrade that changes the features: the champion no longer loads, its report still compares."""
    old = edited(settings, honest, "manifest.json", lambda m: m.update(feature_hash="0" * 12))
    line = registry.Promotion(old, "promoted", NOW.isoformat(), "ada", "all checks passed", [])
    registry.record(settings, line)
    assert failed(promote(settings, honest, "ada")) == set()
    assert registry.champion(settings) == honest


def test_a_champion_lost_from_the_store_is_replaced_only_with_a_reason(settings: Settings, honest: str) -> None:
    promote(settings, twin(settings, honest), "ada")
    lost = registry.champion(settings) or ""
    (registry.bundle_folder(settings, lost) / "report.json").unlink()
    assert refused(settings, honest) == {"not worse than champion"}
    promote(settings, honest, "ada", override="the champion's files are gone")
    assert registry.champion(settings) == honest
    with pytest.raises(BundleError, match=r"report\.json is missing from the store"):
        registry.roll_back(settings, "ada", "back again", NOW)
    assert registry.champion(settings) == honest


def test_rollback_makes_the_champion_before_champion_again(settings: Settings, honest: str) -> None:
    second = twin(settings, honest)
    promote(settings, honest, "ada")
    promote(settings, second, "ada")
    assert registry.roll_back(settings, "grace", "clicks fell", NOW) == honest
    assert registry.champion(settings) == honest
    actions = [(line.tag, line.action, line.by) for line in registry.history(settings)]
    expected = [(honest, "promoted", "ada"), (second, "promoted", "ada"), (honest, "rolled back", "grace")]
    assert actions == expected
    assert registry.history(settings)[-1].reason == "clicks fell"
    with pytest.raises(BundleError, match="nothing to roll back to"):
        registry.roll_back(settings, "grace", "further", NOW)


def test_a_tag_that_was_never_stored_names_those_that_were(settings: Settings, honest: str) -> None:
    with pytest.raises(BundleError, match=f"no bundle 'banner_bundle:nope' in the store; stored: {honest}"):
        promote(settings, "banner_bundle:nope", "ada")


def test_each_installation_has_a_store_of_its_own(
    settings: Settings, honest: str, copied: Callable[[Path], Settings], tmp_path: Path
) -> None:
    """BentoML reads its home once a process; a bundle of one installation must not turn up in another."""
    elsewhere = copied(tmp_path / "elsewhere")
    own = twin(settings, honest)
    assert registry.bundles(settings) == [honest, own]
    assert registry.bundles(elsewhere) == [honest]
    assert registry.bundle_folder(settings, own).is_relative_to(settings.home)
    assert registry.bundle_folder(elsewhere, honest).is_relative_to(elsewhere.home)


def test_a_stored_bundle_loads_as_it_was_trained(settings: Settings, honest: str) -> None:
    bundle = registry.load_bundle(settings, honest)
    work = Bundle.load(settings.home / "training" / "bundle")
    assert bundle.manifest == work.manifest
    assert np.array_equal(bundle.banner_vectors, work.banner_vectors)
    assert datetime.fromisoformat(bundle.manifest["trained_until"]) < NOW - timedelta(days=1)


def test_the_same_seed_gives_the_same_tag_in_another_process(
    settings: Settings, honest: str, train_again: Callable[[Settings], None]
) -> None:
    shutil.rmtree(settings.bentos)
    (settings.home / "training" / "latest.json").unlink()
    train_again(settings)
    assert require_latest_bundle(settings) == honest
    assert registry.bundles(settings) == [honest]
