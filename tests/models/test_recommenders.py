"""What every retrieval model must do, whichever it is: each is tried in a world whose answer is known."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marquee.errors import MarqueeError
from marquee.settings import ROOT
from training.interactions import Interactions, Queries, ask, from_events
from training.recommender import Recommender, load_model, model_class, model_names

pytestmark = pytest.mark.models
MODELS = model_names()
TASTELESS = {"popular"}
"""Models that are not meant to know one visitor from another."""
ITEMS, USERS, LENGTH = 24, 120, 8
SMALL: dict[str, dict[str, Any]] = {
    "gru4rec": {"dimensions": 16, "length": 8, "epochs": 15, "batch": 32, "negatives": 0, "learning_rate": 0.01},
    "sasrec": {"dimensions": 16, "length": 8, "epochs": 15, "batch": 32, "negatives": 0, "learning_rate": 0.01},
    "mult_vae": {"hidden": 32, "latent": 8, "epochs": 30, "batch": 20, "learning_rate": 0.01},
    "dmf": {"epochs": 10, "batch": 64, "learning_rate": 0.005},
    "neumf": {"factors": 8, "hidden": 16, "epochs": 10, "batch": 64, "learning_rate": 0.01},
    "ranking_factorization": {"factors": 8, "epochs": 10, "batch": 64, "learning_rate": 0.02},
    "als": {"factors": 8},
    "bpr": {"factors": 4, "iterations": 40, "learning_rate": 0.1},
    "logistic_mf": {"factors": 2, "regularisation": 0.6, "alpha": 1.0},
    "hybrid": {"models": "ease,item_knn"},
    "two_tower": {"dimensions": 16, "length": 8, "epochs": 12, "batch": 64, "learning_rate": 0.02},
}
"""Settings for a world of 24 items, by model, where the defaults are made for tens of thousands."""


def checkerboard(seed: int = 0) -> Interactions:
    """Even users take even items and odd users odd ones, eight each, in any order and never one twice."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(USERS), LENGTH)
    items = np.concatenate([rng.choice(np.arange(u % 2, ITEMS, 2), LENGTH, replace=False) for u in range(USERS)])
    return from_events(np.char.mod("u%03d", users), np.char.mod("i%02d", items), np.arange(len(users)) * 60.0)


@pytest.fixture(scope="module")
def world() -> Interactions:
    return checkerboard()


FITTED: dict[str, Recommender] = {}


def fitted(name: str, world: Interactions) -> Recommender:
    """The model, fitted once for all tests of this file."""
    if name not in FITTED:
        FITTED[name] = model_class(name)(**SMALL.get(name, {})).fit(world)
    return FITTED[name]


def strangers(world: Interactions) -> Queries:
    """The same kind of people, none of whom took part in training."""
    others = checkerboard(seed=1)
    renamed = Interactions(
        np.char.add("new", others.user_ids),
        world.item_ids,
        *(getattr(others, field) for field in ("starts", "items", "times", "weights", "contexts")),
    )
    return ask(renamed, world)


def test_models_are_found() -> None:
    assert {"popular", "ease"} <= set(MODELS)
    with pytest.raises(MarqueeError, match=r"there is no model 'easy'; there are .*ease"):
        model_class("easy")


@pytest.mark.parametrize("name", [name for name in MODELS if name not in TASTELESS])
@pytest.mark.parametrize("who", ["known", "new"])
def test_taste_is_learnt(name: str, who: str, world: Interactions) -> None:
    """Of three items recommended and not yet taken, nearly all are of the asker's colour; chance gives a quarter."""
    queries = ask(world, world) if who == "known" else strangers(world)
    items, _ = fitted(name, world).recommend(queries, 3, exclude_seen=True)
    colour = np.array([int(user[-1]) % 2 for user in queries.histories.user_ids])
    assert np.mean(items % 2 == colour[:, None]) > 0.9


@pytest.mark.parametrize("name", MODELS)
def test_scores_agree_however_they_are_asked_for(name: str, world: Interactions) -> None:
    model = fitted(name, world)
    queries = ask(world, world).take(np.arange(9))
    scores = model.score(queries)
    assert scores.shape == (9, ITEMS)
    assert not np.isnan(scores).any()
    candidates = np.random.default_rng(0).integers(0, ITEMS, (9, 5))
    expected = np.take_along_axis(scores, candidates, axis=1)
    np.testing.assert_allclose(model.score_candidates(queries, candidates), expected, rtol=1e-4, atol=1e-5)
    items, values = model.recommend(queries, ITEMS)
    assert np.array_equal(np.sort(items, axis=1), np.tile(np.arange(ITEMS), (9, 1)))
    np.testing.assert_allclose(values, np.take_along_axis(scores, items, axis=1), rtol=1e-4, atol=1e-5)
    assert (np.diff(values, axis=1) <= 1e-5).all()
    alone = model.score(queries.take(np.array([3])))
    np.testing.assert_allclose(alone[0], scores[3], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_what_was_seen_can_be_left_out(name: str, world: Interactions) -> None:
    queries = ask(world, world).take(np.arange(20))
    items, _ = fitted(name, world).recommend(queries, 5, exclude_seen=True)
    for row in range(20):
        assert not set(items[row]) & set(queries.histories.take(np.array([row])).items)


@pytest.mark.parametrize("name", MODELS)
def test_somebody_without_a_history_gets_an_answer(name: str, world: Interactions) -> None:
    nobody = world.take(np.arange(3)).where(np.zeros(3 * LENGTH, dtype=bool))
    queries = Queries(nobody, np.full(3, -1), np.full(3, world.times.max()), np.zeros(3, dtype=np.int64))
    items, scores = fitted(name, world).recommend(queries, 5)
    assert all(len(set(row)) == 5 for row in items)
    assert not np.isnan(scores).any()


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_is_the_same_model(name: str, world: Interactions, tmp_path: Path) -> None:
    model = fitted(name, world)
    model.save(tmp_path)
    again = load_model(tmp_path)
    queries = strangers(world)
    np.testing.assert_allclose(again.score(queries), model.score(queries), rtol=1e-5, atol=1e-6)
    assert again.settings == model.settings
    assert list(again.item_ids) == list(world.item_ids)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".pkl", ".pickle", ".joblib"}]


@pytest.mark.parametrize("name", MODELS)
def test_an_unknown_setting_is_named(name: str) -> None:
    with pytest.raises(MarqueeError, match=f"{name} has no setting 'colour'; it has "):
        model_class(name)(colour=1)


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    with pytest.raises(MarqueeError, match="there is no model in"):
        load_model(tmp_path)


def test_deleting_any_model_file_leaves_the_rest_working(tmp_path: Path) -> None:
    """In one process: each file is moved away in turn and all the others are imported anew."""
    for package in ("training", "marquee", "features"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    program = """
import sys
from pathlib import Path
from training.recommender import model_class, model_names
everything = model_names()
for gone in everything:
    path = Path("training/models") / f"{gone}.py"
    path.rename("hidden.py")
    for name in [name for name in sys.modules if name.startswith("training.models.")]:
        del sys.modules[name]
    for name in model_names():
        assert model_class(name).name() == name
    print(gone, len(model_names()))
    Path("hidden.py").rename(path)
"""
    done = subprocess.run(
        [sys.executable, "-B", "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines() == [f"{name} {len(MODELS) - 1}" for name in MODELS]
