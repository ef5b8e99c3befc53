"""Personalised similar items: both scores on one scale, the weight from held-out questions, nothing shown again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marquee.errors import MarqueeError
from training.harness.task import Truth
from training.interactions import Interactions, Queries, from_events
from training.models.als import ALS
from training.models.popular import Popular
from training.similar import Asked, Blend, Scale, SimilarItems, first_as_query

pytestmark = pytest.mark.models
KINDS, COLOURS, EACH = 5, 4, 6
ITEMS = KINDS * COLOURS * EACH
KIND, COLOUR = np.arange(ITEMS) // (COLOURS * EACH), np.arange(ITEMS) // EACH % COLOURS


class Known(Popular):
    """Item vectors tell kinds, scores tell whether an item has the colour of the history's first one."""

    def item_vectors(self) -> Any:
        noise = 0.3 * np.random.default_rng(1).standard_normal((ITEMS, KINDS))
        return (np.eye(KINDS)[KIND] + noise).astype(np.float32)

    def score(self, queries: Queries) -> Any:
        histories = queries.histories
        liked = COLOUR[histories.items[histories.starts[:-1]]]
        noise = 400.0 * np.random.default_rng(2).standard_normal((len(queries), ITEMS))
        return (1000.0 * (COLOUR[None, :] == liked[:, None]) + noise).astype(np.float32)


def shop(seed: int, users: int = 150) -> tuple[Interactions, Interactions]:
    """Visitors of one colour; later they look at something of a kind and take three more of that kind and colour."""
    rng = np.random.default_rng(seed)
    names = np.char.mod("i%03d", np.arange(ITEMS))
    before: list[tuple[str, str]] = []
    later: list[tuple[str, str]] = []
    for user in range(users):
        colour, kind = rng.integers(COLOURS), rng.integers(KINDS)
        own = rng.choice(np.flatnonzero((colour == COLOUR) & (kind != KIND)), 3, replace=False)
        next_ones = rng.choice(np.flatnonzero((colour == COLOUR) & (kind == KIND)), 4, replace=False)
        before += [(f"u{user:03d}", names[item]) for item in own]
        later += [(f"u{user:03d}", names[item]) for item in next_ones]
    return tuple(  # type: ignore[return-value]
        from_events(*map(np.array, zip(*part, strict=True)), np.arange(len(part), dtype=float), item_ids=names)
        for part in (before, later)
    )


def asked(seed: int) -> Asked:
    before, later = shop(seed)
    return first_as_query(before, later)


def model() -> Known:
    return Known().fit(shop(0)[0])


def test_the_first_later_item_is_the_query_and_the_rest_is_to_be_found() -> None:
    names = np.array(["a", "b", "c", "d"])
    before = from_events(np.array(["u", "u"]), np.array(["a", "b"]), np.arange(2.0), item_ids=names)
    # u looks at c, had b before, and takes d; v is new and takes only one thing.
    later = from_events(
        np.array(["u", "u", "u", "u", "v"]), np.array(["c", "b", "d", "c", "a"]), np.arange(5.0), item_ids=names
    )
    found = first_as_query(before, later)
    assert (found.items.tolist(), found.truth.items.tolist(), found.truth.starts.tolist()) == ([2], [3], [0, 1])
    assert found.queries.histories.items.tolist() == [0, 1]
    again = first_as_query(before, later, unseen=False)
    assert again.truth.items.tolist() == [1, 3]


def test_the_blend_beats_both_of_its_parts_and_the_original() -> None:
    """Similarity alone knows the kind, taste the colour; taste's unit is a thousand times the cosine's."""
    blend = SimilarItems.fit(model(), asked(1))
    quality = {name: one["ndcg@20"] for name, one in blend.comparison(asked(2), 20).items()}
    assert set(quality) == {"blend", "similarity", "taste", "original"}
    others = {name: value for name, value in quality.items() if name != "blend"}
    assert quality["blend"] > 1.2 * max(others.values()), quality
    assert 0.0 < blend.blend.weight < 1.0


def test_what_was_looked_at_or_seen_is_not_shown() -> None:
    questions, blend = asked(3), SimilarItems.fit(model(), asked(1))
    items, scores = blend.similar(questions.items, questions.queries, 10)
    assert np.isfinite(scores).all()
    assert (np.diff(scores, axis=1) <= 0).all()
    for row in range(len(questions)):
        seen = set(questions.queries.histories.take(np.array([row])).items.tolist())
        assert not set(items[row].tolist()) & (seen | {int(questions.items[row])})
    whole, _ = blend.similar(questions.items, questions.queries, ITEMS - 1, unseen=False)
    assert (np.sort(whole, axis=1)[:, -1] < ITEMS).all()


def test_original_by_hand() -> None:
    """0.5 · cos + 0.5 · score, the latter 0 for what is in the history."""
    one = model()
    blend = SimilarItems(one, Blend(Scale(1.0, 0.0), Scale(1.0, 0.0), 0.5))
    questions = asked(4)
    part = questions.queries.take(np.array([0]))
    vectors = one.item_vectors()
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    taste = one.score(part)[0].copy()
    taste[part.histories.items] = 0.0
    expected = 0.5 * unit @ unit[questions.items[0]] + 0.5 * taste
    np.testing.assert_allclose(blend.original(questions.items[:1], part)[0], expected, rtol=1e-5, atol=1e-4)


def test_a_saved_blend_is_the_same_blend(tmp_path: Path) -> None:
    before, later = shop(5)
    fitted = SimilarItems.fit(ALS(factors=8).fit(before), first_as_query(before, later))
    fitted.save(tmp_path)
    again = SimilarItems.load(tmp_path)
    questions = first_as_query(before, later)
    expected = fitted.similar(questions.items, questions.queries, 5)[0]
    assert again.blend == fitted.blend
    assert np.array_equal(again.similar(questions.items, questions.queries, 5)[0], expected)


def test_what_cannot_be_blended_says_so(tmp_path: Path) -> None:
    plain = Popular().fit(shop(0)[0])
    with pytest.raises(MarqueeError, match="popular has no item vectors"):
        SimilarItems(plain, Blend(Scale(1.0, 0.0), Scale(1.0, 0.0), 0.5))
    questions = asked(1)
    nothing = Asked(questions.items, questions.queries, Truth(questions.truth.starts, questions.truth.items * 0 - 1))
    with pytest.raises(MarqueeError, match="no held-out visitor took a known item"):
        SimilarItems.fit(model(), nothing)
    plain.save(tmp_path)
    with pytest.raises(MarqueeError, match=r"holds a model but no similar\.json"):
        SimilarItems.load(tmp_path)
