"""The two-tower on two workers: as on one, the same on both, and nobody waits for a worker that has failed."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from marquee.errors import MarqueeError
from training.distributed import main, run_local

pytestmark = pytest.mark.models
SETTINGS = {"epochs": 2, "batch": 256, "dimensions": 8, "dropout": 0.0}


def events(path: Path) -> Path:
    """Two colours of users, eight items of their colour each; as many events as give batches of an even height."""
    rng = np.random.default_rng(0)
    taken = [(user, item) for user in range(200) for item in rng.choice(np.arange(user % 2, 40, 2), 8, replace=False)]
    lines = [f"u{user:03d},i{item:02d},{1_700_000_000 + at}" for at, (user, item) in enumerate(taken)]
    path.write_text("\n".join(["user_id,item_id,timestamp", *lines]), encoding="utf-8")
    return path


def fitted(data: Path, out: Path, workers: int) -> list[dict[str, object]]:
    """What each worker says it ended with."""
    command = [sys.executable, "-m", "training.distributed", "--data", str(data), "--out", str(out)]
    command += ["--workers", str(workers), "--settings", json.dumps(SETTINGS), "--timeout", "120"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads((out / f"worker-{index}.json").read_text()) for index in range(workers)]


def test_two_workers_learn_what_one_does(tmp_path: Path) -> None:
    data = events(tmp_path / "events.csv")
    alone, both = fitted(data, tmp_path / "one", 1), fitted(data, tmp_path / "two", 2)
    assert len(both) == 2
    assert both[0]["weights"] == both[1]["weights"]
    with np.load(tmp_path / "one" / "arrays.npz") as one, np.load(tmp_path / "two" / "arrays.npz") as two:
        compared = [name for name in one.files if one[name].dtype.kind == "f"]
        for name in compared:
            np.testing.assert_allclose(two[name], one[name], atol=1e-5)
    assert len(compared) >= 3
    assert [epoch["loss"] for epoch in both[0]["epochs"]] == pytest.approx(  # type: ignore[attr-defined]
        [epoch["loss"] for epoch in alone[0]["epochs"]],  # type: ignore[attr-defined]
        rel=1e-5,
    )


def test_when_a_worker_fails_the_others_end_with_it(tmp_path: Path) -> None:
    """The second leaves at once with 3; the first would sleep for a minute."""
    program = "import json, os, sys, time; i = json.loads(os.environ['TF_CONFIG'])['task']['index']; "
    program += "sys.exit(3) if i else time.sleep(60)"
    since = time.monotonic()
    with pytest.raises(MarqueeError, match=r"worker 1 failed; .*worker-1\.log says why"):
        run_local(2, [sys.executable, "-c", program], tmp_path)
    assert time.monotonic() - since < 30


def test_workers_that_take_too_long_are_ended(tmp_path: Path) -> None:
    with pytest.raises(MarqueeError, match="not done in time"):
        run_local(2, [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, timeout=0.5)


def test_bad_settings_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", str(events(tmp_path / "events.csv")), "--out", str(tmp_path / "out"), "--settings"]
    assert main([*words, '{"colour": 1}']) == 1
    assert "two_tower has no setting 'colour'" in capsys.readouterr().err
    assert main([*words, "{"]) == 1
    assert capsys.readouterr().err.count("\n") == 1
