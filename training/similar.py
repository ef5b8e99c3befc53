"""Similar items for one visitor: what is like the item looked at, and what the visitor likes, on one scale."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.harness.measures import means, per_question
from training.harness.task import Truth
from training.interactions import Floats, Interactions, Ints, Queries, ask, places
from training.recommender import Recommender, load_model
from training.top_k import top_k

BLEND: Final = "similar.json"
WEIGHTS: Final = tuple(np.linspace(0.0, 1.0, 11).tolist())
BATCH: Final = 256
NEGATIVES: Final = 200
"""Items drawn for each question to learn the scale of the scores from."""


@dataclass(frozen=True, slots=True)
class Asked:
    """n questions "what next, to one who looks at this item?" and what came.

    Attributes:
        items: [n] the item looked at.
        queries: what each asker did before.
        truth: the items that came after; never the one looked at.
    """

    items: Ints
    queries: Queries
    truth: Truth

    def __len__(self) -> int:
        """n."""
        return len(self.items)


@dataclass(frozen=True, slots=True)
class Scale:
    """Log-odds that an item is among the next ones, from a score: ``slope`` × score + ``intercept`` (Platt, 1999)."""

    slope: float
    intercept: float


@dataclass(frozen=True, slots=True)
class Blend:
    """How much similarity and taste count, each on the scale of log-odds; ``weight`` is the similarity's, 0 to 1."""

    similarity: Scale
    taste: Scale
    weight: float


class SimilarItems:
    """Items for a visitor who looks at one: w · log-odds by similarity + (1 − w) · log-odds by taste.

    Similarity is the cosine of the items' vectors, taste the model's score for the visitor's history. Alone their units
    have nothing in common; here each is first turned into what it says about being taken next, and the weight is the
    one that ranks held-out questions best.

    Args:
        model: a fitted model that has item vectors.
        blend: from ``fit``.

    Raises:
        MarqueeError: the model has no item vectors.
    """

    def __init__(self, model: Recommender, blend: Blend) -> None:
        vectors = model.item_vectors()
        if vectors is None:
            raise MarqueeError(f"{model.name()} has no item vectors, so it cannot tell which items are alike")
        self.model, self.blend = model, blend
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        self._unit: Floats = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)

    @classmethod
    def fit(cls, model: Recommender, validation: Asked, metric: str = "ndcg@20", seed: int = 7) -> Self:
        """Find both scales and the weight on questions later than all that the model was fitted on."""
        flat = Blend(Scale(1.0, 0.0), Scale(1.0, 0.0), 0.5)
        plain = cls(model, flat)
        scales = plain._scales(validation, np.random.default_rng(seed))
        k = int(metric.partition("@")[2])
        found = {w: plain._with(Blend(*scales, w)).quality(validation, k)[metric] for w in WEIGHTS}
        return plain._with(Blend(*scales, max(found, key=lambda weight: found[weight])))

    def scores(self, items: Ints, queries: Queries) -> Floats:
        """[n, I] log-odds of all items for askers [n] who look at ``items`` [n]."""
        by_similarity, by_taste = self.log_odds(items, queries)
        if self.blend.weight == 1.0:  # a score of -inf times nothing is not a number
            return by_similarity
        return np.asarray(self.blend.weight * by_similarity + (1.0 - self.blend.weight) * by_taste, np.float32)

    def similar(self, items: Ints, queries: Queries, k: int, unseen: bool = True) -> tuple[Ints, Floats]:
        """The best k for each asker, best first, never the item looked at.

        Args:
            items: [n] codes of the items looked at.
            queries: what the askers did before; an empty history leaves similarity to decide.
            k: 1 to I.
            unseen: whether to leave out what is in the history; a row with too little left ends in scores of -inf.

        Returns:
            [n, k] items and [n, k] scores.
        """
        chosen, scores = np.zeros((len(items), k), np.int64), np.zeros((len(items), k), np.float32)
        for start in range(0, len(items), BATCH):
            rows = np.arange(start, min(start + BATCH, len(items)))
            part = queries.take(rows)
            found = self.scores(items[rows], part)
            chosen[rows] = best(found, items[rows], part, k, unseen)
            scores[rows] = np.take_along_axis(found, chosen[rows], axis=1)
        return chosen, scores

    def log_odds(self, items: Ints, queries: Queries) -> tuple[Floats, Floats]:
        """[n, I] each: what similarity and what taste say of all items, before they are weighted."""
        similarity, taste = self._parts(items, queries)
        scales = self.blend.similarity, self.blend.taste
        by_similarity, by_taste = (
            np.asarray(scale.slope * part + scale.intercept, np.float32)
            for scale, part in zip(scales, (similarity, taste), strict=True)
        )
        return by_similarity, by_taste

    def with_weight(self, weight: float) -> Self:
        """The same with another weight of similarity, 0 to 1."""
        return self._with(replace(self.blend, weight=weight))

    def quality(self, asked: Asked, k: int, unseen: bool = True) -> dict[str, float]:
        """MAP@k, Recall@k, NDCG@k and others of the lists, over all items."""
        return means(per_question(self.similar(asked.items, asked.queries, k, unseen)[0], asked.truth, [k]))

    def comparison(self, asked: Asked, k: int, unseen: bool = True) -> dict[str, dict[str, float]]:
        """The blend beside both of its parts and beside the original formula, on the same questions."""
        found = {"blend": self.quality(asked, k, unseen)}
        found |= {
            name: self.with_weight(weight).quality(asked, k, unseen)
            for name, weight in (("similarity", 1.0), ("taste", 0.0))
        }
        lists = np.zeros((len(asked), k), np.int64)
        for start in range(0, len(asked), BATCH):
            rows = np.arange(start, min(start + BATCH, len(asked)))
            part = asked.queries.take(rows)
            lists[rows] = best(self.original(asked.items[rows], part), asked.items[rows], part, k, unseen)
        return found | {"original": means(per_question(lists, asked.truth, [k]))}

    def original(self, items: Ints, queries: Queries) -> Floats:
        """[n, I] 0.5 · cos(q, i) + 0.5 · (u · v_i) · unseen(i), each in its own unit: a baseline.

        Source: the formula of "Personalizing similar product recommendations in fashion e-commerce", arXiv 1806.11371.
        """
        similarity, taste = self._parts(items, queries)
        taste[queries.histories.users, queries.histories.items] = 0.0
        found: Floats = 0.5 * similarity + 0.5 * taste
        return found

    def save(self, folder: Path) -> None:
        """Write the model and the blend."""
        self.model.save(folder)
        (folder / BLEND).write_text(json.dumps(asdict(self.blend), indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            MarqueeError: there is no model in the folder, or no blend.
        """
        model = load_model(folder)
        try:
            found: dict[str, Any] = json.loads((folder / BLEND).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise MarqueeError(f"{folder} holds a model but no {BLEND}: fit similar items on it first") from None
        return cls(model, Blend(Scale(**found["similarity"]), Scale(**found["taste"]), found["weight"]))

    def _parts(self, items: Ints, queries: Queries) -> tuple[Floats, Floats]:
        similarity: Floats = self._unit[items] @ self._unit.T
        return similarity, self.model.score(queries).copy()

    def _with(self, blend: Blend) -> Self:
        return type(self)(self.model, blend)

    def _scales(self, asked: Asked, rng: np.random.Generator) -> tuple[Scale, Scale]:
        """Logistic regressions of "came next" on each score: all that came, and items drawn from the rest."""
        columns: list[list[NDArray[Any]]] = [[], [], [], []]
        count = len(self.model.item_ids)
        for start in range(0, len(asked), BATCH):
            rows = np.arange(start, min(start + BATCH, len(asked)))
            truth = asked.truth.take(rows)
            similarity, taste = self._parts(asked.items[rows], asked.queries.take(rows))
            row = np.repeat(np.arange(len(rows)), np.diff(truth.starts))[truth.items >= 0]
            right = truth.items[truth.items >= 0]
            is_right = np.zeros(taste.shape, dtype=bool)
            is_right[row, right] = True
            drawn = rng.integers(0, count, (len(rows), min(NEGATIVES, count)))
            others, wrong = np.nonzero(~np.take_along_axis(is_right, drawn, axis=1))
            wrong = drawn[others, wrong]
            weight = np.concatenate([np.ones(len(row)), np.full(len(others), count / drawn.shape[1])])
            row, item = np.concatenate([row, others]), np.concatenate([right, wrong])
            kept = np.isfinite(taste[row, item])
            parts = (similarity[row, item], taste[row, item], np.arange(len(row)) < len(right), weight)
            for column, values in zip(columns, parts, strict=True):
                column.append(values[kept])
        similar, liked, label, weights = (np.concatenate(column) for column in columns)
        return _scale(similar, label, weights), _scale(liked, label, weights)


def fit_on(
    events: Interactions, model: Callable[[], Recommender], metric: str = "ndcg@20"
) -> tuple[SimilarItems, dict[str, dict[str, float]]]:
    """Similar items learnt from all events, and how good they were on the newest tenth.

    The blend is learnt on the tenth before that by a model of the first eight, which is also the one that is judged;
    what is returned has a model of all events and that blend.

    Returns:
        the similar items, and the quality of the blend, its parts and the original formula.

    Raises:
        MarqueeError: in one of the two tenths nobody took two different items.
    """
    first, second = np.quantile(events.times, [0.8, 0.9])
    learnt, seen = events.where(events.times < first), events.where(events.times < second)
    middle, newest = (
        events.where((events.times >= first) & (events.times < second)),
        events.where(events.times >= second),
    )
    validation, test = first_as_query(learnt, middle), first_as_query(seen, newest, fitted=learnt)
    if not (len(validation) and len(test)):
        raise MarqueeError("too few events: in the newest two tenths nobody looked at one item and then took another")
    judged = SimilarItems.fit(model().fit(learnt), validation, metric)
    quality = judged.comparison(test, int(metric.partition("@")[2]))
    return SimilarItems(model().fit(events), judged.blend), quality


def best(scores: Floats, items: Ints, queries: Queries, k: int, unseen: bool) -> Ints:
    """[n, k] best items of each row, without the item looked at and, if asked for, without the history's."""
    scores[np.arange(len(items)), items] = -np.inf
    if unseen:
        scores[queries.histories.users, queries.histories.items] = -np.inf
    return top_k(scores, k)


def first_as_query(
    before: Interactions, later: Interactions, fitted: Interactions | None = None, unseen: bool = True
) -> Asked:
    """Questions from what visitors did later: the first item is looked at, the rest is to be found.

    Args:
        before: what the askers did before, and the items that can be answered.
        later: events after those; a visitor who did fewer than two different things is not asked.
        fitted: what the model was fitted on, if that is not ``before``; its users are the known ones.
        unseen: whether what the asker had before does not count as an answer.
    """
    row = places(before.user_ids, later.user_ids)
    histories = before.take(np.maximum(row, 0))
    histories = replace(histories.where(np.repeat(row >= 0, histories.lengths)), user_ids=later.user_ids)
    items, kept, truths = [], [], []
    for user in np.flatnonzero(later.lengths >= 2):
        events = later.items[later.starts[user] : later.starts[user + 1]]
        first, rest = events[0], np.unique(events[1:])
        rest = rest[rest != first]
        if unseen:
            rest = np.setdiff1d(rest, histories.items[histories.starts[user] : histories.starts[user + 1]])
        if len(rest):
            items.append(first)
            kept.append(user)
            truths.append(rest)
    starts = np.concatenate([[0], np.cumsum([len(truth) for truth in truths])]).astype(np.int64)
    truth = Truth(starts, np.concatenate(truths) if truths else np.zeros(0, np.int64))
    queries = ask(histories.take(np.array(kept, dtype=np.int64)), before if fitted is None else fitted)
    return Asked(np.array(items, dtype=np.int64), queries, truth)


def _scale(scores: NDArray[Any], label: NDArray[np.bool_], weights: NDArray[np.float64]) -> Scale:
    from sklearn.linear_model import LogisticRegression

    if label.all() or not label.any():
        raise MarqueeError("no held-out visitor took a known item after the first one: the scales cannot be learnt")
    # On unit spread the solver needs no care; more of a score never says less than nothing.
    spread = max(float(scores.std()), 1e-9)
    model = LogisticRegression(C=1e6, max_iter=200).fit(scores[:, None] / spread, label, sample_weight=weights)
    return Scale(max(float(model.coef_[0, 0]) / spread, 1e-6), float(model.intercept_[0]))
