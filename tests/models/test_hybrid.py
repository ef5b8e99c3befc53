"""The hybrid: reciprocal ranks by hand, what fusion must not depend on, and what it refuses."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.interactions import Floats, Interactions, Queries, ask, from_events
from training.models.hybrid import Hybrid
from training.recommender import PLAIN, Fitting, Recommender, load_model, model_class

pytestmark = pytest.mark.models


class Fixed(Recommender):
    """Says for every history what it is told to."""

    Settings = Hybrid.Settings

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = np.array(scores, dtype=np.float32)
        self.fitted_with: list[Fitting] = []

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Fixed:
        self.fitted_with.append(fitting)
        return self

    def score(self, queries: Queries) -> Floats:
        return np.tile(self.scores, (len(queries), 1))

    def state(self) -> dict[str, NDArray[Any]]:
        return {"scores": self.scores}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self.scores = state["scores"]


WORLD = from_events(["u", "u", "u", "v"], ["a", "b", "c", "d"], [1.0, 2.0, 3.0, 4.0])


def fused(*parts: list[float], weights: str = "", steadiness: float = 60.0) -> Floats:
    model = Hybrid(models=",".join(["popular"] * len(parts)), weights=weights, steadiness=steadiness)
    model.parts = [Fixed(scores) for scores in parts]
    scores: Floats = model.fit(WORLD).score(ask(WORLD, WORLD))[0]
    return scores


def test_reciprocal_ranks_by_hand() -> None:
    """The first part ranks d c b a, the second a d b c; it counts double, and κ is 1."""
    scores = fused([0, 1, 2, 3], [9, 5, 4, 8], weights="1,2", steadiness=1.0)
    by_hand = [
        Fraction(1, 5) + Fraction(2, 2),
        Fraction(1, 4) + Fraction(2, 4),
        Fraction(1, 3) + Fraction(2, 5),
        Fraction(1, 2) + Fraction(2, 3),
    ]
    np.testing.assert_allclose(scores, [float(one) for one in by_hand], rtol=1e-6)


@given(st.permutations([0.0, 1.0, 2.0, 3.0]), st.floats(0.01, 1000), st.floats(-1000, 1000))
def test_the_parts_scales_do_not_matter(other: list[float], factor: float, shift: float) -> None:
    moved = [one * factor + shift for one in other]
    assert (fused([3, 1, 2, 0], other) == fused([3, 1, 2, 0], moved)).all()


def test_what_a_part_leaves_out_comes_last_for_it() -> None:
    scores = fused([-np.inf, 1, 2, 3], [-np.inf, 1, 2, 3])
    assert np.isfinite(scores).all()
    assert scores.argmin() == 0


def test_a_saved_hybrid_brings_its_parts(tmp_path: Any) -> None:
    rng = np.random.default_rng(3)
    world = from_events(rng.integers(0, 20, 300), rng.integers(0, 9, 300), np.arange(300.0))
    model = Hybrid(models="ease, item_knn,popular", weights="").fit(world)
    queries = ask(world, world)
    alone = [
        np.argsort(-model_class(name)().fit(world).score(queries), axis=1, kind="stable")
        for name in ("ease", "item_knn", "popular")
    ]
    by_hand = sum(1.0 / (61 + np.argsort(order, axis=1)) for order in alone)
    np.testing.assert_allclose(model.score(queries), by_hand, rtol=1e-5)
    model.save(tmp_path)
    np.testing.assert_array_equal(load_model(tmp_path).score(queries), model.score(queries))


def test_each_part_has_its_own_checkpoint(tmp_path: Any) -> None:
    model = Hybrid(models="popular,ease")
    model.parts = [Fixed([1, 2, 3, 4]), Fixed([1, 2, 3, 4])]
    model.fit(WORLD, Fitting(checkpoint=tmp_path))
    first, second = (part.fitted_with[0].checkpoint for part in model.parts)  # type: ignore[attr-defined]
    assert first != second
    assert first.parent == second.parent == tmp_path


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"models": "hybrid,ease"}, "it cannot be a part of itself"),
        ({"models": "ease,esae"}, "there is no model 'esae'"),
        ({"models": "ease,popular", "weights": "1"}, "2 models and 1 weights; give one for each, or none"),
        ({"models": "ease,popular", "weights": "1,much"}, "weights are numbers, not '1,much'"),
    ],
)
def test_wrong_settings_say_what_is_wrong(settings: dict[str, str], message: str) -> None:
    with pytest.raises(MarqueeError, match=message):
        Hybrid(**settings)
