"""The demo as a newcomer runs it: steps, slates with reasons, an honest report, and one JSON object at the end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from marquee.demo import STEPS

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]


def run_demo(home: Path, *arguments: str) -> tuple[str, dict[str, Any]]:
    command = [str(Path(sys.executable).with_name("marquee")), "demo", "--home", str(home), *arguments]
    done = subprocess.run(command, cwd=home.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout, json.loads(done.stdout.splitlines()[-1])


def check_slate(slate: list[dict[str, Any]]) -> None:
    assert [banner["position"] for banner in slate] == list(range(len(slate)))
    assert len(slate) > 0
    for banner in slate:
        assert 0 < banner["score"] < 1
        assert 0 < banner["propensity"] <= 1
        assert banner["reasons"]


def test_simulated_shop(tmp_path: Path) -> None:
    text, result = run_demo(tmp_path / "home", "--events", "60000")
    assert text.count(f"/{STEPS} ") == STEPS
    ctr = result["ctr"]
    for policy in ("trained", "popular", "random"):
        assert 0 < ctr[f"{policy}_low"] <= ctr[policy] <= ctr[f"{policy}_high"] < 1
    assert ctr["trained_low"] > ctr["popular_high"] > ctr["random"]
    assert ctr["trained_high"] < ctr["best_high"]
    assert set(result) >= {"demo", "seconds", "ctr", "service", "slate"}
    check_slate(result["slate"])
    with pytest.raises(httpx.ConnectError):  # it stops what it started
        httpx.get(f"{result['service']}/livez", timeout=2)


def test_complete_journey(tmp_path: Path) -> None:
    data = Path(os.environ.get("MARQUEE_DATA", ROOT.parent / "shared" / "data")) / "completejourney"
    if not data.is_dir():
        pytest.skip(f"the data set is not there: {data}")
    _, result = run_demo(tmp_path / "home", "--source", "completejourney", "--path", str(data))
    auc = result["auc"]
    assert auc["trained_low"] > 0.5
    assert auc["trained_low"] > auc["popular"]
    assert 0.5 < auc["logistic"] < 1
    check_slate(result["slate"])


def test_a_gate_that_refuses_stops_the_demo_with_its_reason(tmp_path: Path) -> None:
    command = [str(Path(sys.executable).with_name("marquee")), "demo", "--home", str(tmp_path), "--events", "2000"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "was not promoted" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr
