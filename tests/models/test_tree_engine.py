"""The fast engine gives XGBoost's own probabilities, whatever the trees and whatever is missing."""

from __future__ import annotations

import numpy as np
import pytest
import xgboost as xgb
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from training.tree_engine import TreeEngine

pytestmark = pytest.mark.models


@effort(deadline=None, max_examples=25)
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 120), st.integers(2, 33), st.floats(0, 0.6))
def test_probabilities_equal_xgboosts(seed: int, depth: int, trees: int, features: int, missing: float) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(800, features)).astype(np.float32).round(2)
    matrix[rng.random(matrix.shape) < missing] = np.nan
    label = rng.random(800) < 0.3
    parameters = {"objective": "binary:logistic", "max_depth": depth, "nthread": 1, "seed": seed % 1000}
    booster = xgb.train(parameters, xgb.DMatrix(matrix, label=label), trees)
    engine = TreeEngine(booster)
    assert engine.name == "oneDAL"
    # Rows seen and not seen, all of one value, nothing known at all: also what lies exactly on a threshold.
    asked = np.vstack(
        [matrix[:60], rng.normal(size=(60, features)), np.zeros((1, features)), np.full((1, features), np.nan)]
    )
    asked = asked.astype(np.float32)
    expected = booster.inplace_predict(asked, validate_features=False)
    assert np.abs(engine.probabilities(asked) - expected).max() < 1e-6
    again = TreeEngine(booster).probabilities(asked)
    assert np.array_equal(again, engine.probabilities(asked)), "the same rows in the same order, the same bits"


def test_trees_that_onedal_does_not_know_are_evaluated_by_xgboost() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.normal(size=(300, 3)).astype(np.float32)
    data = xgb.DMatrix(matrix, label=rng.random(300) < 0.5)
    booster = xgb.train({"objective": "binary:logistic", "booster": "dart"}, data, 3)
    engine = TreeEngine(booster)
    assert engine.name == "XGBoost"
    assert np.array_equal(engine.probabilities(matrix), booster.inplace_predict(matrix))
