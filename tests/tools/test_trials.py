"""Canary, shadow and experiment: who gets what, what is logged of it, and that none of it can break an answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from ingestion.event_stream import EventStream
from marquee.errors import BundleError, GateError, SettingsError
from marquee.settings import Settings
from serving import lineup
from serving.responder import Responder
from serving.schemas import RecommendRequest, RecommendResponse
from serving.scoring import Scorer
from serving.shadow import Shadow, compare_shadow
from tests.tools.test_promotion import twin
from training import registry
from training.pipeline import require_latest_bundle
from training.promotion import end_trial, promote, start_canary, start_shadow

pytestmark = pytest.mark.tools
NOW = datetime(2026, 2, 2, 12)
VISITORS = [f"w{number:04d}" for number in range(400)]


@pytest.fixture
def settings(copied: Callable[[Path], Settings], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(lineup, "FOLLOW_SECONDS", 0.0)
    settings = copied(tmp_path / "home")
    promote(settings, require_latest_bundle(settings), "ada")
    return settings


@pytest.fixture
def challenger(settings: Settings) -> str:
    return twin(settings, registry.require_champion(settings))


class Process:
    """A service process without HTTP: what it answers, logs and leaves to a shadow."""

    def __init__(self, settings: Settings) -> None:
        self.stream = EventStream(settings.log / "stream", "test")
        self.scorer = Scorer(settings, clock=lambda: NOW)
        self.shadow = Shadow(settings)
        self.responder = Responder(settings, self.scorer, self.stream, shadow=self.shadow)

    def close(self) -> None:
        self.responder.close()
        self.stream.close()


@pytest.fixture
def process(settings: Settings) -> Iterator[Process]:
    made = Process(settings.model_copy(update={"slate_ms": 5_000.0}))
    yield made
    made.close()


def answered(process: Process, visitors: list[str] = VISITORS) -> dict[str, str]:
    """The bundle that answered each visitor."""

    async def each() -> dict[str, str]:
        found = {}
        for visitor in visitors:
            request = RecommendRequest(visitor_id=visitor, placement="home_hero", n=1)
            answer = await process.responder.answer(request)
            assert isinstance(answer, RecommendResponse)
            found[visitor] = answer.bundle
        return found

    return asyncio.run(each())


def logged(settings: Settings) -> list[dict[str, str]]:
    return [json.loads(line) for line in (settings.log / "stream" / "test.jsonl").read_text().splitlines()]


def test_a_canary_answers_its_share_for_good_and_says_so_in_the_log(
    settings: Settings, challenger: str, process: Process
) -> None:
    champion = registry.require_champion(settings)
    assert set(answered(process).values()) == {champion}
    start_canary(settings, challenger, 0.2, "ada")
    first = answered(process)
    assert 0.13 < np.mean([bundle == challenger for bundle in first.values()]) < 0.27
    assert answered(process) == first, "each visitor stays where they are"
    start_canary(settings, challenger, 0.5, "ada")
    second = answered(process)
    assert all(second[v] == challenger for v in VISITORS if first[v] == challenger), "growth moves nobody out"
    assert 0.4 < np.mean([bundle == challenger for bundle in second.values()]) < 0.6
    for row in logged(settings)[len(VISITORS) :]:
        assert row["policy"].endswith(challenger if row["arm"] == "canary" else champion)
    running = process.scorer.running()
    assert (running.bundle, running.canary, running.canary_share) == (champion, challenger, 0.5)


def test_a_canary_ends_by_hand_by_promotion_and_by_a_rollback(settings: Settings, challenger: str) -> None:
    champion = registry.require_champion(settings)
    with pytest.raises(BundleError, match="there is no canary to end"):
        end_trial(settings, "canary", "ada", "none")
    start_canary(settings, challenger, 0.2, "ada")
    assert end_trial(settings, "canary", "ada", "seen enough") == challenger
    assert registry.roles(settings) == registry.Roles(champion)
    start_canary(settings, challenger, 0.2, "ada")
    promote(settings, challenger, "ada")
    assert registry.roles(settings) == registry.Roles(challenger)
    start_canary(settings, champion, 0.1, "ada")
    registry.roll_back(settings, "ada", "worse", NOW)
    assert registry.roles(settings) == registry.Roles(champion)
    actions = [line.action for line in registry.history(settings)]
    assert actions == ["promoted", "canary", "canary ended", "canary", "promoted", "canary", "rolled back"]
    assert [line.share for line in registry.history(settings)][1] == 0.2


def test_a_canary_passes_the_gate_and_is_not_the_champion(
    settings: Settings, challenger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GateError, match="is the champion and answers everybody"):
        start_canary(settings, registry.require_champion(settings), 0.1, "ada")
    for share in (0.0, 1e-17, 1.0, float("nan")):
        with pytest.raises(GateError, match="a canary's share is"):
            start_canary(settings, challenger, share, "ada")
    busy = settings.model_copy(update={"experiment": Path("hero.toml")})
    with pytest.raises(GateError, match=r"hero\.toml divides the visitors already"):
        start_canary(busy, challenger, 0.1, "ada")
    monkeypatch.setattr("training.promotion.SIZE_LIMIT_MB", 0.001)
    with pytest.raises(GateError, match=r"was not made canary\. size: "):
        start_canary(settings, challenger, 0.1, "ada")
    assert registry.roles(settings).canary is None
    start_canary(settings, challenger, 0.1, "ada", override="large, and known to be")
    assert registry.history(settings)[-1].reason == "override: large, and known to be"


def test_a_canary_that_cannot_be_read_leaves_everybody_to_the_champion(
    settings: Settings, challenger: str, process: Process
) -> None:
    start_canary(settings, challenger, 0.5, "ada")
    (registry.bundle_folder(settings, challenger) / "towers.npz").write_bytes(b"")
    assert set(answered(process).values()) == {registry.require_champion(settings)}
    assert {row["arm"] for row in logged(settings)} == {"champion"}, "its figures are not mixed with the canary's"


def test_a_shadow_is_scored_and_never_seen(settings: Settings, challenger: str, process: Process) -> None:
    champion = registry.require_champion(settings)
    start_shadow(settings, challenger, "ada")
    assert set(answered(process, VISITORS[:60]).values()) == {champion}
    process.shadow.drain()
    found = compare_shadow(settings, challenger)
    assert (found.requests, found.errors) == (60, 0)
    # The same model with twice the exploration: what is likeliest is the same.
    assert 0.5 < (found.overlap or 0) <= 1
    assert "it would have shown" in found.lines()[1]
    text = "".join(file.read_text() for file in settings.shadow.iterdir())
    assert not any(visitor in text for visitor in VISITORS), "there is nothing of a person to erase"
    assert {row["arm"] for row in logged(settings)} == {"champion"}
    end_trial(settings, "shadow", "ada", "enough")
    answered(process, VISITORS[:5])
    process.shadow.drain()
    assert compare_shadow(settings, challenger).requests == 60


def test_a_shadow_that_fails_is_told_and_harms_nobody(
    settings: Settings, challenger: str, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    start_shadow(settings, challenger, "ada")
    monkeypatch.setattr("serving.shadow.decide", lambda *_, **__: 1 / 0)
    assert set(answered(process, VISITORS[:5]).values()) == {registry.require_champion(settings)}
    process.shadow.drain()
    found = compare_shadow(settings, challenger)
    assert (found.requests, found.errors, found.first_error) == (0, 5, "ZeroDivisionError: division by zero")


def test_a_shadow_needs_no_gate_but_a_bundle(settings: Settings, challenger: str) -> None:
    with pytest.raises(BundleError, match="no bundle 'banner_bundle:nothing' in the store"):
        start_shadow(settings, "banner_bundle:nothing", "ada")
    with pytest.raises(BundleError, match="is the champion: what it would show is what is shown"):
        start_shadow(settings, registry.require_champion(settings), "ada")
    with pytest.raises(BundleError, match="there is no shadow; start one"):
        compare_shadow(settings, registry.roles(settings).shadow)


def test_half_a_line_and_requests_left_out_are_no_lie(settings: Settings, challenger: str, process: Process) -> None:
    """A killed process leaves half a line, and the next one of its number writes on behind it."""
    start_shadow(settings, challenger, "ada")
    answered(process, VISITORS[:3])
    process.shadow.drain()
    (file,) = settings.shadow.iterdir()
    with file.open("a") as kept:
        kept.write('{"request_id": "ab')
        kept.write('{"request_id": "c", "shown": ["b1"], "would": ["b1"], "ms": 1.0, "left_out": 0}\n')
        kept.write('{"request_id": "d", "shown": ["b1"], "would": ["b1"], "ms": 1.0, "left_out": 7}\n')
    found = compare_shadow(settings, challenger)
    assert (found.requests, found.errors, found.left_out) == (4, 0, 7)
    assert "7 requests were left out" in found.lines()[-1]


def test_a_full_queue_costs_the_answer_nothing_and_is_counted(
    settings: Settings, challenger: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = threading.Event()
    monkeypatch.setattr("serving.shadow.WAITING", 2)
    monkeypatch.setattr("serving.shadow._scored", lambda *_: (gate.wait(10), {"shown": [], "would": [], "ms": 0.0})[1])
    start_shadow(settings, challenger, "ada")
    process = Process(settings)
    answered(process, VISITORS[:10])
    gate.set()
    process.shadow.drain()
    process.close()
    assert compare_shadow(settings, challenger).left_out >= 7


def test_the_service_runs_an_experiment_of_bundles(settings: Settings, challenger: str, tmp_path: Path) -> None:
    file = tmp_path / "bolder.toml"
    arms = f'[[arms]]\nname = "control"\nshare = 0.5\n[[arms]]\nname = "bold"\nshare = 0.5\nbundle = "{challenger}"\n'
    file.write_text(f'unit = "visitor"\n{arms}')
    process = Process(settings.model_copy(update={"experiment": file, "slate_ms": 5_000.0}))
    found = answered(process)
    process.close()
    assert 0.4 < np.mean([bundle == challenger for bundle in found.values()]) < 0.6
    arm = {row["visitor_id"]: row["arm"] for row in logged(settings)}
    assert all((arm[v] == "bold") == (found[v] == challenger) for v in VISITORS)
    file.write_text(arms.replace("0.5", "0.7"))
    with pytest.raises(SettingsError, match="sum to 1"):
        Scorer(settings.model_copy(update={"experiment": file}))
