"""One small installation for all tests that need one: simulated, admitted, transformed, materialised and trained, once.

Run as a script, this file builds it: the tools leave state behind in a process that tests should not share.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from marquee.settings import Settings, quiet_environment

# XGBoost's threads else spin while they wait, which takes 2.5 times as long where the cores are shared.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
EVENTS = 30_000
DAY_AFTER = datetime(2026, 2, 2, 12)
"""Noon of the day after the simulator's log ends."""


@pytest.fixture(autouse=True)
def _own_environment() -> Iterator[None]:
    """A verb called in the test's own process sets variables for the tools; the next test must not find them."""
    with mock.patch.dict(os.environ):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: pytest.FixtureDef[Any]) -> Generator[None, Any, Any]:
    """The same for what many tests share: it is set up before a test's own environment begins, and must leave none.

    What yields may set variables while it lasts; what returns may not.
    """
    if fixturedef.scope == "function":
        return (yield)
    before = mock.patch.dict(os.environ)
    before.start()
    if inspect.isgeneratorfunction(fixturedef.func):
        fixturedef.addfinalizer(before.stop)
        return (yield)
    try:
        return (yield)
    finally:
        before.stop()


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A trained installation on which nothing was promoted yet. Read only; change a copy of it (``copied``)."""
    base = tmp_path_factory.getbasetemp()
    # Test processes that run side by side share the folder above their own, and one installation in it.
    root = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    settings = Settings(home=root / "installation", events=EVENTS, as_of=DAY_AFTER)
    with (root / "installation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (root / "installation.done").exists():
            run_steps(settings, "build", "train")
            (root / "installation.done").touch()
    return settings


@pytest.fixture(scope="session")
def copied(installation: Settings) -> Callable[[Path], Settings]:
    """A function that copies the installation to a folder and returns the copy's settings."""

    def copy(home: Path) -> Settings:
        shutil.copytree(installation.home, home, dirs_exist_ok=True)
        return installation.model_copy(update={"home": home})

    return copy


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One session for all tests of a file: what they call finds it running."""
    from marquee.errors import MarqueeError
    from marquee.java import java_home
    from training.spark_retrieval import spark_session

    pytest.importorskip("pyspark", reason="pyspark is not installed")
    try:
        java_home()
    except MarqueeError as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("home")
    with mock.patch.dict(os.environ, {"MARQUEE_HOME": str(home)}), spark_session() as session:
        yield session


@pytest.fixture(scope="session")
def train_again() -> Callable[[Settings], None]:
    """A function that trains once more on an installation, in a process of its own."""
    return lambda settings: run_steps(settings, "train")


def run_steps(settings: Settings, *steps: str) -> None:
    command = [sys.executable, __file__, str(settings.home), str(settings.events), *steps]
    done = subprocess.run(
        command, env=os.environ | quiet_environment(settings), capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]


def build(settings: Settings) -> None:
    from features.store import materialize
    from ingestion.load import admit_batch, ingest
    from ingestion.simulator import Simulator
    from ingestion.transform import transform

    batch = ingest(Simulator(seed=settings.seed, events=settings.events), settings)
    admit_batch(settings, batch.batch_id)
    transform(settings)
    materialize(settings)


def train(settings: Settings) -> None:
    from training.pipeline import train

    train(settings)


if __name__ == "__main__":
    for step in sys.argv[3:]:
        {"build": build, "train": train}[step](Settings(home=Path(sys.argv[1]), events=int(sys.argv[2])))
