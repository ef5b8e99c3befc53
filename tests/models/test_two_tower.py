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


def fitted(
    world: Checkerboard, exposures: NDArray[np.float64] | None = None, **other: Any
) -> tuple[Towers, list[float]]:
    from training.two_tower import TwoTowerSettings, fit_two_tower

    losses: list[float] = []
    settings = replace(TwoTowerSettings(), **other)
    towers = fit_two_tower(
        world.visitors, world.clicked, world.banners, settings, lambda epoch, loss: losses.append(loss), exposures
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
    from training.two_tower import TwoTowerSettings

    assert len(learned[1]) == TwoTowerSettings().epochs
    assert learned[1][-1] < learned[1][0]


@pytest.mark.parametrize("how_shown", ["evenly", "as clicked"])
def test_similarity_tells_the_click_rate_and_not_how_often_a_banner_is_shown(
    world: Checkerboard, how_shown: str
) -> None:
    """The optimum is cos = temperature × log (clicks / shows) + constant for each visitor.

    Shown evenly, the favourite's clicks are its rate: it leads by 0.2 × log(0.6 / 0.133) = 0.30. Shown as often as
    it is clicked, its rate is that of the others and it leads by nothing.
    """
    from training.two_tower import TwoTowerSettings

    clicks = np.bincount(world.clicked, minlength=len(world.banners)).astype(np.float64)
    exposures = clicks if how_shown == "as clicked" else np.ones(len(clicks))
    towers, _ = fitted(world, exposures, prior=0.0, epochs=20)
    tastes = np.arange(CATEGORIES).repeat(20)
    scores = similarities(towers, world, tastes).reshape(len(tastes), CATEGORIES, EACH)
    own = scores[np.arange(len(tastes)), tastes].mean(axis=0)
    rest = (1 - FAVOURITE_SHARE) / (EACH - 2)
    lead = TwoTowerSettings().temperature * np.log(FAVOURITE_SHARE / rest)
    expected = lead if how_shown == "evenly" else 0.0
    assert own[0] - own[1 : EACH - 1] == pytest.approx(expected, abs=0.08)


def test_few_clicks_leave_the_towers_near_what_content_says(world: Checkerboard) -> None:
    """Thirty clicks tell little; the prior keeps the scores where content puts them, and without it they leave."""
    few = replace(world, visitors=world.visitors[:30], clicked=world.clicked[:30])
    moved = []
    for prior in (0.0, 200.0):
        towers, _ = fitted(few, prior=prior, epochs=60)
        start = started(world)
        tastes = np.arange(CATEGORIES).repeat(5)
        difference = similarities(towers, world, tastes) - similarities(start, world, tastes)
        moved.append(float(np.abs(difference).mean()))
    assert moved[1] < 0.3 * moved[0]


def test_towers_made_from_content_order_banners_as_the_cosine_of_shares_does() -> None:
    """With room for all categories nearly exactly; with half of it along the principal directions."""
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.full(12, 0.2), 40).astype(np.float32)
    banners = banner_inputs(shares[:20], np.full(20, 5.0), np.full(20, 10.0))
    visitors = visitor_inputs(shares[20:], np.zeros((20, len(COUNTS))))
    unit = shares / np.linalg.norm(shares, axis=1, keepdims=True)
    cosines = unit[20:] @ unit[:20].T
    found = []
    for dimensions in (32, 14):
        towers = Towers.from_content(visitors.shape[1], banners, dimensions, 64, 16, rng)
        scores = towers.visitor_vectors(visitors) @ towers.banner_vectors(np.zeros(20, np.int64), banners).T
        found.append(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(scores, cosines, strict=True)]))
    assert found[0] > 0.97
    assert 0.7 < found[1] < found[0]


def test_a_banner_never_seen_is_placed_by_its_content(world: Checkerboard, learned: tuple[Towers, list[float]]) -> None:
    tastes = np.arange(CATEGORIES).repeat(20)
    scores = similarities(learned[0], world, tastes)[:, world.unseen]
    assert scores.shape == (len(tastes), CATEGORIES)
    assert np.mean(scores.argmax(axis=1) == tastes) > 0.98


def started(world: Checkerboard) -> Towers:
    """What training starts from with the default settings."""
    return Towers.from_content(world.visitors.shape[1], world.banners, 32, 64, 16, np.random.default_rng(7))


def network_of(world: Checkerboard, towers: Towers, **other: Any) -> Any:
    from training.two_tower import ClickNetwork, TwoTowerSettings

    settings = replace(TwoTowerSettings(), **other)
    clicks = np.bincount(world.clicked, minlength=len(world.banners))
    return ClickNetwork(towers, world.banners, np.ones(len(world.banners)), clicks, settings)


def test_numpy_towers_are_the_tensorflow_model(world: Checkerboard, learned: tuple[Towers, list[float]]) -> None:
    import tensorflow as tf

    towers = learned[0]
    model = network_of(world, towers)
    ids = np.arange(len(world.banners) + 1)
    inputs = world.banners[np.maximum(ids - 1, 0)]
    visitors = tf.math.l2_normalize(model.visitor(world.visitors[:300]), axis=1).numpy()
    assert np.abs(towers.visitor_vectors(world.visitors[:300]) - visitors).max() < 1e-5
    banners = model.banner_vectors(ids, inputs).numpy()
    assert np.abs(towers.banner_vectors(ids, inputs) - banners).max() < 1e-5
    assert banners.std(axis=0).max() > 0.05, "constant vectors would agree too"


def test_weights_survive_saving(tmp_path: Path, learned: tuple[Towers, list[float]]) -> None:
    learned[0].save(tmp_path / "towers.npz")
    again = Towers.load(tmp_path / "towers.npz")
    assert all(np.array_equal(getattr(learned[0], f.name), getattr(again, f.name)) for f in fields(Towers))


def test_loss_of_a_batch_by_hand(world: Checkerboard, learned: tuple[Towers, list[float]]) -> None:
    """Mean over clicks of −log softmax over all banners of cos / temperature + log exposure, plus the prior."""
    from training.two_tower import ClickNetwork, TwoTowerSettings

    towers, start = learned[0], started(world)
    rng = np.random.default_rng(4)
    exposures = rng.integers(1, 9, len(world.banners)).astype(np.float64)
    settings = replace(TwoTowerSettings(), temperature=0.5, prior=30.0, unseen_share=0.0)
    model = ClickNetwork(start, world.banners, exposures, np.full(len(exposures), 15), settings)
    for variable, field in zip(model.tower_weights, fields(Towers), strict=True):
        variable.assign(getattr(towers, field.name))
    visitors, clicked = world.visitors[:4], world.clicked[:4]
    content = start.visitor_vectors(visitors)
    loss = float(model.compute_loss({"visitor": visitors, "banner": clicked, "content": content}, training=True))
    ids = np.arange(len(world.banners))
    cosines = (towers.visitor_vectors(visitors) @ towers.banner_vectors(ids + 1, world.banners).T).astype(np.float64)
    logits = cosines / 0.5 + np.log(exposures)
    total = np.mean([np.log(np.exp(row).sum()) - row[target] for row, target in zip(logits, clicked, strict=True)])
    apart = (cosines - content @ start.banner_vectors(0 * ids, world.banners).T) / 0.5
    pull = 30.0 / 600 * np.mean(np.sum(apart**2, axis=1))
    assert loss == pytest.approx(total + pull, rel=1e-4)
    assert min(total, pull) > 0.01, "either could be missing unnoticed"


def test_few_candidates_corrected_give_nearly_the_loss_of_all(
    world: Checkerboard, learned: tuple[Towers, list[float]]
) -> None:
    """Mixed negatives: a batch of 12 clicks and 12 banners drawn of 40; without log-Q the loss is another."""
    import tensorflow as tf

    rng = np.random.default_rng(2)
    batches = [rng.integers(len(world.clicked), size=12) for _ in range(40)]
    losses = []
    for negatives, is_corrected in ((40, True), (12, True), (12, False)):
        model = network_of(world, learned[0], prior=0.0, unseen_share=0.0, batch=12, negatives=negatives)
        if not is_corrected:
            model.log_inclusion = tf.zeros_like(model.log_inclusion)
        tf.random.set_seed(1)
        of = [{"visitor": world.visitors[rows], "banner": world.clicked[rows].astype(np.int32)} for rows in batches]
        content = {"content": np.zeros((12, 32), np.float32)}
        losses.append(np.mean([float(model.compute_loss(batch | content, training=True)) for batch in of]))
    everything, corrected, uncorrected = losses
    assert corrected == pytest.approx(everything, rel=0.1)
    assert abs(uncorrected - everything) > 2 * abs(corrected - everything)


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
