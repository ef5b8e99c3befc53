"""The ranker in worlds with a known answer: it finds what decides, means what it says, and comes back the same."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xgboost as xgb
from numpy.typing import NDArray

from features.matrix import Encoding
from marquee import contract
from marquee.errors import BundleError
from training.catalogue import Catalogue
from training.dataset import Dataset, Split
from training.metrics import auc, calibration_error
from training.ranker import Ranker, RankerSettings, fit_ranker

pytestmark = pytest.mark.models
FEATURES = list(contract.RANKER_FEATURES)
DECISIVE, OTHER = FEATURES.index("affinity_cosine"), FEATURES.index("banner_click_rate")
Floats = NDArray[np.float64]


def dataset(chance: Floats, matrix: NDArray[np.float32], seed: int = 2) -> Dataset:
    """Rows in time order, clicked with the given chance: half to train on, a fifth to validate, the rest to test."""
    rng = np.random.default_rng(seed)
    rows = len(chance)
    parts = np.split(np.arange(rows), [rows // 2, rows * 7 // 10])
    at = np.datetime64(datetime(2026, 1, 1), "us")
    return Dataset(
        frame=pd.DataFrame({"visitor_id": rng.integers(rows // 4, size=rows).astype(str)}),
        catalogue=Catalogue.from_rows([]),
        encoding=Encoding((), (), contract.DEVICES, float(chance.mean())),
        split=Split(*parts, validation_starts_at=at, test_starts_at=at, purged=0),
        matrix=matrix,
        visitor_shares=np.zeros((rows, 0), np.float32),
        banner_shares=np.zeros((0, 0), np.float32),
        banner_rows=np.zeros(rows, np.int64),
        clicked=rng.random(rows) < chance,
        snapshot="",
    )


def inputs(rows: int) -> NDArray[np.float32]:
    matrix = np.random.default_rng(1).random((rows, len(FEATURES))).astype(np.float32)
    matrix[::7, FEATURES.index("hours_since_seen")] = np.nan
    return matrix


@pytest.fixture(scope="module")
def known() -> tuple[Dataset, Floats]:
    """A world whose click probabilities are known: log-odds of two features, 2 to 30 %."""
    matrix = inputs(24_000)
    chance = 1 / (1 + np.exp(-(-4 + 2.5 * matrix[:, DECISIVE] + 1.0 * (matrix[:, OTHER] > 0.5)).astype(np.float64)))
    return dataset(chance, matrix), chance


@pytest.fixture(scope="module")
def learned(known: tuple[Dataset, Floats]) -> Ranker:
    return fit_ranker(known[0], RankerSettings())


def test_a_feature_that_decides_is_found() -> None:
    matrix = inputs(6_000)
    data = dataset((matrix[:, DECISIVE] > 0.6).astype(np.float64), matrix)
    ranker = fit_ranker(data, RankerSettings())
    test = data.split.test
    assert auc(data.clicked[test], ranker.predict(matrix[test])) > 0.99
    shares = np.abs(ranker.contributions(matrix[test])[:, :-1]).mean(axis=0)
    assert int(shares.argmax()) == DECISIVE


def test_probabilities_mean_what_they_say_in_a_known_world(known: tuple[Dataset, Floats], learned: Ranker) -> None:
    data, chance = known
    test = data.split.test
    told = learned.predict(data.matrix[test])
    assert told.mean() == pytest.approx(chance[test].mean(), rel=0.06)
    assert np.mean(np.abs(told - chance[test])) < 0.15 * chance[test].mean()
    assert calibration_error(data.clicked[test], told) < 0.02
    for low, high in ((0.0, 0.5), (0.5, 1.0)):
        part = (data.matrix[test, DECISIVE] >= low) & (data.matrix[test, DECISIVE] < high)
        assert told[part].mean() == pytest.approx(chance[test][part].mean(), rel=0.12)


def test_labels_of_the_test_part_are_never_looked_at(known: tuple[Dataset, Floats], learned: Ranker) -> None:
    from dataclasses import replace

    data = known[0]
    clicked = data.clicked.copy()
    clicked[data.split.test] = ~clicked[data.split.test]
    blind = fit_ranker(replace(data, clicked=clicked), RankerSettings())
    assert np.array_equal(blind.predict(data.matrix[:500]), learned.predict(data.matrix[:500]))


def test_saved_and_loaded_it_predicts_the_same(known: tuple[Dataset, Floats], learned: Ranker, tmp_path: Path) -> None:
    learned.save(tmp_path)
    again = Ranker.load(tmp_path)
    matrix = known[0].matrix[:1000]
    assert np.array_equal(again.predict(matrix), learned.predict(matrix))
    # Contributions and bias add up to the raw log-odds, so that reasons speak of the real score.
    told = learned.booster.inplace_predict(matrix, validate_features=False).astype(np.float64)
    assert again.contributions(matrix).sum(axis=1) == pytest.approx(np.log(told / (1 - told)), abs=1e-4)


@pytest.mark.parametrize("names", [FEATURES[::-1], [*FEATURES[:-1], "another"]], ids=["order", "name"])
def test_other_features_are_refused(names: list[str], learned: Ranker, tmp_path: Path) -> None:
    learned.save(tmp_path)
    rng = np.random.default_rng(0)
    data = xgb.DMatrix(rng.random((50, len(names))), label=rng.integers(2, size=50), feature_names=names)
    xgb.train({"objective": "binary:logistic", "nthread": 1}, data, 2).save_model(tmp_path / "ranker.ubj")
    with pytest.raises(BundleError, match="fitted on other features"):
        Ranker.load(tmp_path)


def test_the_same_seed_gives_the_same_bytes(known: tuple[Dataset, Floats], learned: Ranker, tmp_path: Path) -> None:
    def saved(ranker: Ranker, name: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        ranker.save(folder)
        files = sorted(folder.iterdir())
        assert [file.name for file in files] == ["calibration.json", "ranker.ubj"]
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    first = saved(learned, "first")
    assert saved(fit_ranker(known[0], RankerSettings()), "again") == first
    assert saved(fit_ranker(known[0], RankerSettings(seed=8)), "other") != first


def test_constraints_hold_at_every_row(known: tuple[Dataset, Floats]) -> None:
    """Sweeping a feature through its range the probability never turns, whatever the other features are."""
    data, rows, grid = known[0], np.arange(200), np.linspace(-0.5, 1.5, 60)
    for sign in (1, -1):
        # Against what the data say as well: the click chance rises with both.
        ranker = fit_ranker(data, RankerSettings(monotone={FEATURES[DECISIVE]: sign, FEATURES[OTHER]: sign}))
        for feature in (DECISIVE, OTHER):
            swept = np.repeat(data.matrix[rows], len(grid), axis=0)
            swept[:, feature] = np.tile(grid, len(rows))
            told = ranker.predict(swept).reshape(len(rows), len(grid))
            assert np.all(sign * np.diff(told, axis=1) >= 0)
    free = fit_ranker(data, RankerSettings())
    swept = np.repeat(data.matrix[rows], len(grid), axis=0)
    swept[:, DECISIVE] = np.tile(grid, len(rows))
    assert np.any(np.diff(free.predict(swept).reshape(len(rows), len(grid)), axis=1) < 0), "noise turns it if it may"
