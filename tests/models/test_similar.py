"""Personalised similar items: both scores on one scale, the weight from held-out questions, nothing shown again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from marquee.cli import app
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


class TestVerb:
    """``marquee similar-items`` on a shop of two colours."""

    @pytest.fixture(scope="class")
    def events(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        rng, file = np.random.default_rng(3), tmp_path_factory.mktemp("similar") / "events.csv"
        lines = ["user_id,item_id,timestamp"]
        for at in range(4_000):
            user = int(rng.integers(0, 200))
            lines.append(f"u{user:03d},i{2 * int(rng.integers(0, 12)) + user % 2:02d},{1_700_000_000 + 60 * at}")
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return file

    def run(self, *words: object) -> Any:
        return CliRunner().invoke(app, ["similar-items", *map(str, words)])

    def test_alike_items_come_with_what_each_part_says(self, events: Path, tmp_path: Path) -> None:
        words = ("i04", "--data", events, "--set", "als.factors=4", "--k", 5, "--seen", "--home", tmp_path, "--json")
        done = self.run(*words, "--visitor", "u001")
        assert done.exit_code == 0, done.output
        found = json.loads(done.stdout)
        assert len(found["similar"]) == 5
        odds = [one["log_odds"] for one in found["similar"]]
        assert odds == sorted(odds, reverse=True)
        weight = found["weight"]
        for one in found["similar"]:
            blended = weight * one["by_similarity"] + (1 - weight) * one["by_taste"]
            assert one["log_odds"] == pytest.approx(blended, abs=1e-5)
        assert set(found["quality"]) == {"blend", "similarity", "taste", "original"}
        alone = json.loads(self.run(*words).stdout)["similar"]
        assert {int(one["item"][1:]) % 2 for one in alone} == {0}
        assert all(one["log_odds"] == one["by_similarity"] for one in alone)

    @pytest.mark.parametrize(
        ("words", "message"),
        [
            (["i99"], "no event has the item 'i99'; the first items are i00, i01, i02"),
            (["i04", "--visitor", "x"], "no event has the visitor 'x'; the first visitors are u000, u001, u002"),
            (["i04", "--model", "ease"], "ease has no item vectors, so it cannot tell which items are alike"),
            (["i04", "--model", "alls"], "there is no model 'alls'"),
            (["i04", "--set", "bpr.factors=4"], "--set names bpr, which is not --model als"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, words: list[str], message: str, events: Path, tmp_path: Path) -> None:
        error = self.run(*words, "--data", events, "--home", tmp_path).exception
        assert isinstance(error, MarqueeError)
        assert message in str(error)
        assert len(str(error).splitlines()) == 1

    def test_too_few_events_say_so(self, tmp_path: Path) -> None:
        file = tmp_path / "few.csv"
        file.write_text("user_id,item_id,timestamp\nu,a,1700000000\nu,b,1700000060\nv,a,1700000120\n", encoding="utf-8")
        error = self.run("a", "--data", file, "--home", tmp_path).exception
        assert "too few events" in str(error)
