"""The two towers in a world whose answer is known: visitors of category k click banners of category k.

Run as a script, this file prints a fingerprint of the weights, for the test that needs two processes.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from features.matrix import COUNTS
from training.metrics import full_ranks, recall_at
from training.towers import Towers, banner_inputs, visitor_inputs

pytestmark = pytest.mark.models
CATEGORIES, EACH = 8, 5
FAVOURITE_SHARE = 0.6


@dataclass(frozen=True, slots=True)
class Checkerboard:
    """Clicks of visitors on the banners of their own category, of which one banner is clicked far more than the rest.

    ``unseen`` banners, the last of each category, are never clicked.
    """

    visitors: NDArray[np.float32]
    clicked: NDArray[np.int64]
    banners: NDArray[np.float32]
    category_of_banner: NDArray[np.int64]
    category_of_visitor: NDArray[np.int64]
    unseen: NDArray[np.bool_]


def checkerboard(clicks: int = 6000, seed: int = 5) -> Checkerboard:
    rng = np.random.default_rng(seed)
    category_of_banner = np.repeat(np.arange(CATEGORIES), EACH)
    place = np.tile(np.arange(EACH), CATEGORIES)
    tastes = rng.integers(CATEGORIES, size=clicks)
    rest = (1 - FAVOURITE_SHARE) / (EACH - 2)
    chances = [FAVOURITE_SHARE, *[rest] * (EACH - 2), 0.0]
    clicked = tastes * EACH + rng.choice(EACH, size=clicks, p=chances)
    return Checkerboard(
        visitors=visitors_of(tastes, rng),
        clicked=clicked,
        banners=banner_inputs(np.eye(CATEGORIES, dtype=np.float32)[category_of_banner], place + 3.0, 10.0 + place),
        category_of_banner=category_of_banner,
        category_of_visitor=tastes,
        unseen=place == EACH - 1,
    )


def visitors_of(tastes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float32]:
    shares = 0.8 * np.eye(CATEGORIES)[tastes] + 0.2 * rng.dirichlet(np.ones(CATEGORIES), len(tastes))
    return visitor_inputs(shares.astype(np.float32), rng.poisson(5, (len(tastes), len(COUNTS))).astype(np.float64))


def fitted(world: Checkerboard, **other: Any) -> tuple[Towers, list[float]]:
    from training.two_tower import TwoTowerSettings, fit_two_tower

    losses: list[float] = []
    settings = replace(TwoTowerSettings(), **other)
    towers = fit_two_tower(
        world.visitors, world.clicked, world.banners, settings, lambda epoch, loss: losses.append(loss)
    )
    return towers, losses


@pytest.fixture(scope="module")
def world() -> Checkerboard:
    return checkerboard()


@pytest.fixture(scope="module")
def learned(world: Checkerboard) -> tuple[Towers, list[float]]:
    return fitted(world)


def similarities(towers: Towers, world: Checkerboard, tastes: NDArray[np.int64]) -> NDArray[np.float64]:
    """[n, B] of fresh visitors and all banners; those never clicked are placed by row 0."""
    ids = np.where(world.unseen, 0, np.arange(len(world.banners)) + 1)
    vectors = towers.visitor_vectors(visitors_of(tastes, np.random.default_rng(99)))
    return (vectors @ towers.banner_vectors(ids, world.banners).T).astype(np.float64)


def test_fresh_visitors_find_the_banners_of_their_category(
    world: Checkerboard, learned: tuple[Towers, list[float]]
) -> None:
    tastes = np.random.default_rng(8).integers(CATEGORIES, size=400)
    scores = similarities(learned[0], world, tastes)
    seen = np.tile(~world.unseen, (len(tastes), 1))
    for place in range(EACH - 1):
        ranks = full_ranks(scores, tastes * EACH + place, seen)
        assert recall_at(ranks, EACH - 1) > 0.98
    # By chance it would be 4 of 32.
    assert len(learned[1]) == 8
    assert learned[1][-1] < learned[1][0]


def test_similarity_tells_how_much_more_a_banner_is_clicked_because_log_q_is_subtracted(
    world: Checkerboard, learned: tuple[Towers, list[float]]
) -> None:
    """The optimum is cos = temperature × log P(banner | visitor) + constant; uncorrected, popularity cancels out.

    So the favourite's lead is 0.3 × log(0.6 / 0.133) = 0.45; it was 0.51 with the correction and 0.15 without.
    """
    from training.two_tower import TwoTowerSettings

    tastes = np.arange(CATEGORIES).repeat(20)
    scores = similarities(learned[0], world, tastes).reshape(len(tastes), CATEGORIES, EACH)
    own = scores[np.arange(len(tastes)), tastes].mean(axis=0)
    rest = (1 - FAVOURITE_SHARE) / (EACH - 2)
    lead = TwoTowerSettings().temperature * np.log(FAVOURITE_SHARE / rest)
    assert own[0] - own[1 : EACH - 1] == pytest.approx(lead, abs=0.15)


def test_a_banner_never_seen_is_placed_by_its_content(world: Checkerboard, learned: tuple[Towers, list[float]]) -> None:
    tastes = np.arange(CATEGORIES).repeat(20)
    scores = similarities(learned[0], world, tastes)[:, world.unseen]
    assert scores.shape == (len(tastes), CATEGORIES)
    assert np.mean(scores.argmax(axis=1) == tastes) > 0.98


def test_numpy_towers_are_the_tensorflow_model(world: Checkerboard, learned: tuple[Towers, list[float]]) -> None:
    import tensorflow as tf

    from training.two_tower import TwoTower, TwoTowerSettings

    towers = learned[0]
    model = TwoTower(len(world.banners), TwoTowerSettings())
    ids = np.arange(len(world.banners) + 1)
    inputs = world.banners[np.maximum(ids - 1, 0)]
    model.visitor(world.visitors[:1])
    model.banner_vectors(ids, inputs)
    model.visitor.set_weights(
        [towers.visitor_hidden, towers.visitor_hidden_bias, towers.visitor_output, towers.visitor_output_bias]
    )
    model.embedding.set_weights([towers.banner_embedding])
    model.banner.set_weights(
        [towers.banner_hidden, towers.banner_hidden_bias, towers.banner_output, towers.banner_output_bias]
    )
    visitors = tf.math.l2_normalize(model.visitor(world.visitors[:300]), axis=1).numpy()
    assert np.abs(towers.visitor_vectors(world.visitors[:300]) - visitors).max() < 1e-5
    banners = model.banner_vectors(ids, inputs).numpy()
    assert np.abs(towers.banner_vectors(ids, inputs) - banners).max() < 1e-5
    assert banners.std(axis=0).max() > 0.05, "constant vectors would agree too"


def test_weights_survive_saving(tmp_path: Path, learned: tuple[Towers, list[float]]) -> None:
    learned[0].save(tmp_path / "towers.npz")
    again = Towers.load(tmp_path / "towers.npz")
    assert all(np.array_equal(getattr(learned[0], f.name), getattr(again, f.name)) for f in fields(Towers))


def test_loss_of_a_batch_by_hand() -> None:
    """Softmax over cos / temperature − log q, a batch's other clicks on the same banner left out, summed."""
    from training.two_tower import TwoTower, TwoTowerSettings

    settings = TwoTowerSettings(dimensions=3, hidden=4, embedding=2, temperature=0.5)
    model = TwoTower(4, settings)
    rng = np.random.default_rng(4)
    batch = {
        "visitor": rng.normal(size=(4, 5)).astype(np.float32),
        "banner": rng.normal(size=(4, 3)).astype(np.float32),
        "embedding_id": np.array([1, 2, 0, 4]),
        "banner_id": np.array([0, 1, 1, 3]),
        "probability": np.array([0.7, 0.2, 0.2, 0.1], np.float32),
    }
    loss = float(model.compute_loss(batch))
    weights = [w.numpy() for w in (*model.visitor.weights, *model.embedding.weights, *model.banner.weights)]
    towers = Towers(*weights)
    visitors = towers.visitor_vectors(batch["visitor"]).astype(np.float64)
    banners = towers.banner_vectors(batch["embedding_id"], batch["banner"]).astype(np.float64)
    total = 0.0
    for row in range(4):
        logits = [
            visitors[row] @ banners[other] / 0.5 - np.log(batch["probability"][other])
            for other in range(4)
            if other == row or batch["banner_id"][other] != batch["banner_id"][row]
        ]
        own = visitors[row] @ banners[row] / 0.5 - np.log(batch["probability"][row])
        total += np.log(np.sum(np.exp(logits))) - own
    assert loss == pytest.approx(total, rel=1e-5)
    uncorrected = float(model.compute_loss(batch | {"probability": np.full(4, 0.25, np.float32)}))
    assert abs(uncorrected - loss) > 0.05, "a loss that ignores the probabilities would be the same"


def fingerprint(seed: int) -> str:
    towers, _ = fitted(checkerboard(clicks=1500), epochs=2, seed=seed)
    return hashlib.sha256(b"".join(getattr(towers, field.name).tobytes() for field in fields(Towers))).hexdigest()


def test_the_same_seed_gives_the_same_weights_in_another_process() -> None:
    command = [sys.executable, __file__]
    seeds = ("3", "3", "4")
    children = [subprocess.Popen([*command, seed], stdout=subprocess.PIPE, text=True) for seed in seeds]
    first, second, other = (child.communicate(timeout=300)[0].strip() for child in children)
    assert [child.returncode for child in children] == [0, 0, 0]
    assert first == second != other
    assert len(first) == 64


if __name__ == "__main__":
    sys.stdout.write(fingerprint(int(sys.argv[1])))
