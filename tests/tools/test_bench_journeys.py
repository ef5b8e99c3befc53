"""The journeys bench at its smallest: its parts run, say what they measured, and end in one line of JSON."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import next_page, page_value
from benchmarks.page_world import make_world
from marquee.settings import ROOT

pytestmark = pytest.mark.tools


def bench(*words: str, expected: int = 0) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.journeys", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == expected, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_last_line_is_json_and_missing_data_are_said(tmp_path: Path) -> None:
    small = ("--processes", "5", "--pages", "500", "--worlds", "1", "--sessions", "1000", "--data", str(tmp_path))
    found = bench("--only", "mdp,value,globo", *small)
    assert found["failures"] == {}
    assert found["mdp_gap"] < 1e-8
    assert found["mdp_100k"]["pages"] == 500
    assert len(found["value_worlds"]) == len(found["flat_worlds"]) == 1
    assert found["next_page_mrr"] is None
    assert str(tmp_path) in found["globo_skipped"]


def test_a_part_that_fails_is_named_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "globo_clicks" / "clicks").mkdir(parents=True)
    small = ("--processes", "1", "--pages", "100", "--data", str(tmp_path))
    found = bench("--only", "globo,mdp", *small, expected=1)
    assert "there is no file in" in found["failures"]["globo"]
    assert found["mdp_gap"] < 1e-8


def test_a_part_that_does_not_exist_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks.journeys", "--only", "value,luck"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown part 'luck'" in done.stderr


def test_a_policy_learnt_from_a_log_earns_more_where_there_is_value_and_nothing_more_where_not() -> None:
    valued = page_value.trial(make_world(page_value.PAGES, 7), 7, 4_000)
    assert valued.policy.mean() > 1.15 * valued.probable.mean() > valued.nothing.mean()
    flat = page_value.trial(make_world(page_value.PAGES, 7, valued=False), 7, 4_000)
    assert flat.policy.mean() == pytest.approx(flat.probable.mean(), rel=0.03)


def clicks(folder: Path, sessions: int) -> None:
    """Two hours of clicks in Globo's form: after pages a b comes what a and b say together, so one page says little."""
    rng = np.random.default_rng(3)
    folder.mkdir(parents=True)
    columns = "user_id,session_id,session_start,session_size,click_article_id,click_timestamp"
    for hour in range(2):
        lines = [columns]
        for session in range(sessions):
            at = 1_507_507_200_000 + hour * 43_200_000 + session * 20_000
            pages = rng.integers(0, 12, 2).tolist()
            pages += [(5 * pages[0] + 3 * pages[1]) % 12]
            name = hour * sessions + session
            lines += [f"{name},{name},{at},3,{page},{at + 1_000 * place}" for place, page in enumerate(pages)]
        (folder / f"clicks_hour_{hour:03d}.csv.gz").write_bytes(gzip.compress("\n".join([*lines, ""]).encode()))


@pytest.mark.slow
def test_models_are_asked_for_the_next_page_by_time(tmp_path: Path) -> None:
    clicks(tmp_path / next_page.FOLDER, 600)
    found = next_page.globo(tmp_path, tmp_path, 7, most=300, since="2017-10-09", until="2017-10-10")
    assert found["globo"]["questions"] == 300
    assert set(found["next_page_mrr"]) == set(next_page.SETTINGS)
    assert found["markov_over_first_order"]["low"] > 0.05


@pytest.mark.slow
def test_models_are_asked_on_real_clicks(tmp_path: Path) -> None:
    data = Path(os.environ.get("MARQUEE_DATA") or ROOT.parent / "shared" / "data")
    if not (data / next_page.FOLDER).is_dir():
        pytest.skip(f"there is no {data / next_page.FOLDER}")
    found = next_page.globo(data, tmp_path, 7, most=500, since="2017-10-12T18:00:00", until="2017-10-13")
    assert all(one["value"] > 0.02 for one in found["next_page_mrr"].values())
