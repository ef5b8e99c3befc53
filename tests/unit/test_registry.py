"""The record of promotions: append-only, and a rollback returns to the champion before."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import pytest

from marquee.errors import BundleError
from marquee.settings import Settings
from training import registry
from training.registry import Promotion

NOW = datetime(2026, 2, 1)


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(registry, "bundle_folder", lambda settings, tag: tmp_path)  # the store is tested elsewhere
    return Settings(home=tmp_path)


def promoted(settings: Settings, *tags: str) -> None:
    for tag in tags:
        registry.record(settings, Promotion(tag, "promoted", NOW.isoformat(), "ada", "all checks passed", []))


def test_nothing_promoted_yet(settings: Settings) -> None:
    assert registry.champion(settings) is None
    assert registry.history(settings) == []
    with pytest.raises(BundleError, match="nothing to roll back to"):
        registry.roll_back(settings, "ada", "why not", NOW)


def test_a_refusal_changes_no_champion(settings: Settings) -> None:
    promoted(settings, "a")
    registry.record(settings, Promotion("b", "refused", NOW.isoformat(), "ada", "auc", [{"name": "auc"}]))
    assert registry.champion(settings) == "a"
    assert registry.history(settings)[-1].checks == [{"name": "auc"}]


def test_rollback_walks_back_through_champions(settings: Settings) -> None:
    promoted(settings, "a", "b", "c")
    assert registry.roll_back(settings, "ada", "worse", NOW) == "b"
    assert registry.roll_back(settings, "ada", "worse too", NOW) == "a"
    assert registry.champion(settings) == "a"
    with pytest.raises(BundleError):
        registry.roll_back(settings, "ada", "enough", NOW)
    promoted(settings, "d")
    assert registry.roll_back(settings, "ada", "worse", NOW) == "a"
    assert [line.action for line in registry.history(settings)].count("rolled back") == 3


def test_a_bundle_promoted_again_is_not_its_own_predecessor(settings: Settings) -> None:
    promoted(settings, "a", "b", "a")
    assert registry.roll_back(settings, "ada", "worse", NOW) == "b"
