"""Rules, item-kNN, session kNN, Markov and EASE: by hand, against slow and plain programs, and on real sessions."""

from __future__ import annotations

import gzip
import math
import os
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marquee.errors import MarqueeError
from marquee.settings import ROOT
from training.interactions import Interactions, Ints, Queries, ask, from_events
from training.models.association_rules import AssociationRules
from training.models.ease import EASE
from training.models.item_knn import ItemKNN
from training.models.markov import Markov
from training.models.popular import Popular
from training.models.sequential_rules import SequentialRules
from training.models.stan import STAN
from training.models.vsknn import VSKNN
from training.models.vstan import VSTAN
from training.recommender import Recommender, model_class
from training.top_k import top_k

pytestmark = pytest.mark.models
DATA = Path(os.environ.get("MARQUEE_DATA", ROOT.parent / "shared" / "data"))
NAMES = [
    "association_rules",
    "ease",
    "item_knn",
    "markov",
    "popular",
    "sequential_rules",
    "stan",
    "vsknn",
    "vstan",
]
DAY = 86_400.0


def world(sessions: list[str], items: str = "", days: list[float] | None = None) -> Interactions:
    """A session a text, an item a letter; sessions begin a day apart, their events a second."""
    names = np.array(sorted(set(items) | set("".join(sessions))))
    events = [
        (f"s{number:04d}", letter, (days[number] if days else number) * DAY + place)
        for number, session in enumerate(sessions)
        for place, letter in enumerate(session)
    ]
    users, taken, times = zip(*events, strict=True)
    return from_events(np.array(users), np.array(taken), np.array(times), item_ids=names)


def questions(histories: list[str], train: Interactions, contexts: list[int] | None = None) -> Queries:
    """What comes next for people nobody knows."""
    codes = {name: code for code, name in enumerate(train.item_ids)}
    count = sum(map(len, histories))
    starts = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    asked = np.array(contexts or [0] * len(histories))
    made = Interactions(
        np.array([f"new{number}" for number in range(len(histories))]),
        train.item_ids,
        starts,
        np.array([codes[letter] for history in histories for letter in history], dtype=np.int64),
        np.full(count, 1e6),
        np.ones(count, np.float32),
        np.repeat(asked, np.diff(starts)),
    )
    return Queries(made, np.full(len(histories), -1), np.full(len(histories), 1e6), asked)


def lists(model: Recommender, histories: list[str], train: Interactions, k: int = 3) -> list[str]:
    items, _ = model.recommend(questions(histories, train), k)
    return ["".join(model.item_ids[row]) for row in items]


TINY = ["abc", "ac", "bab"]


def test_association_rules_by_hand() -> None:
    """abc holds ab, ac, bc; ac holds ac; bab holds ba, bb, ab; each in both directions."""
    train = world(TINY)
    found = AssociationRules().fit(train).rules.toarray()
    expected = [
        [0, 3 / 5, 2 / 5],  # a: with b 1 + 2 times, with c 1 + 1
        [3 / 6, 2 / 6, 1 / 6],  # b: with a 1 + 2, with itself 1 in both directions, with c 1
        [2 / 3, 1 / 3, 0],
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    near = AssociationRules(steps=1).fit(train).rules.toarray()
    # ab, bc; ac; ba, ab
    np.testing.assert_allclose(near, [[0, 3 / 4, 1 / 4], [3 / 4, 0, 1 / 4], [1 / 2, 1 / 2, 0]], atol=1e-6)


def test_sequential_rules_by_hand() -> None:
    """abc: a→b 1, a→c 1/2, b→c 1; ac: a→c 1; bab: b→a 1, b→b 1/2, a→b 1."""
    train = world(TINY)
    model = SequentialRules().fit(train)
    found = model.rules.toarray()
    np.testing.assert_allclose(found, [[0, 4 / 7, 3 / 7], [2 / 5, 1 / 5, 2 / 5], [0, 0, 0]], atol=1e-6)
    # b→a and b→c are equal, and b→c came up first. Nothing follows c: the most popular goes first, ties by code.
    assert lists(model, ["b", "c", "cb"], train) == ["cab", "abc", "cab"]
    direct = SequentialRules(steps=1).fit(train).rules.toarray()
    np.testing.assert_allclose(direct, [[0, 2 / 3, 1 / 3], [1 / 2, 0, 1 / 2], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("model", [AssociationRules, SequentialRules])
def test_of_equal_rules_the_first_goes_first(model: type[Recommender]) -> None:
    """The session of the code's last user came first in time."""
    sessions = ["ab", "ac", "ad"]
    for order in ([0.0, 1.0, 2.0], [2.0, 1.0, 0.0], [1.0, 0.0, 2.0]):
        train = world(sessions, days=order)
        first = "".join(sessions[session][1] for session in np.argsort(order))
        assert lists(model().fit(train), ["a"], train) == [first]


def test_more_of_the_history_speaks_when_asked_to() -> None:
    """After ab: P(·|b) + decay · P(·|a), with P as in the test by hand."""
    train = world(TINY)
    model = AssociationRules(newest=2, decay=0.5).fit(train)
    found = model.evidence(questions(["cab", "b"], train)).toarray()
    expected = [[3 / 6, 2 / 6 + 0.5 * 3 / 5, 1 / 6 + 0.5 * 2 / 5], [3 / 6, 2 / 6, 1 / 6]]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    whole = AssociationRules(newest=0, decay=0.5).fit(train).evidence(questions(["cab"], train)).toarray()
    np.testing.assert_allclose(whole[0] - found[0], [0.25 * 2 / 3, 0.25 * 1 / 3, 0], atol=1e-6)


def test_old_events_and_far_pairs_are_left_out() -> None:
    train = world(["ab", "ac"], days=[0.0, 10.0])
    assert AssociationRules(days=5).fit(train).rules.nnz == 2  # a–c in both directions
    assert AssociationRules(days=11).fit(train).rules.nnz == 4
    slow = replace(train, times=np.array([0.0, 3 * DAY, 10 * DAY, 10.5 * DAY]))
    assert AssociationRules(gap_days=1).fit(slow).rules.nnz == 2
    assert AssociationRules(gap_days=3).fit(slow).rules.nnz == 4


def test_rules_of_a_context_are_mixed_with_all() -> None:
    """Context 0 holds ab, context 1 ac and ac. P(b|a) = 1/3, P(c|a) = 2/3 over both."""
    train = world(["ab", "ac", "ac"])
    train = replace(train, contexts=np.array([0, 0, 1, 1, 1, 1]))
    model = AssociationRules(by_context=True, prior=3.0).fit(train)
    found = model.evidence(questions(["a", "a", "a", "b"], train, contexts=[0, 1, 7, 1])).toarray()
    expected = [
        [0, (1 + 3 * 1 / 3) / (1 + 3), (0 + 3 * 2 / 3) / (1 + 3)],
        [0, (0 + 3 * 1 / 3) / (2 + 3), (2 + 3 * 2 / 3) / (2 + 3)],
        [0, 1 / 3, 2 / 3],  # a context never seen
        [1, 0, 0],  # b never came up in context 1
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    alone = AssociationRules(by_context=True, prior=0.0).fit(train)
    found = alone.evidence(questions(["a", "b"], train, contexts=[0, 1])).toarray()
    np.testing.assert_allclose(found, [[0, 1, 0], [1, 0, 0]], atol=1e-6)
    ignored = AssociationRules().fit(train).evidence(questions(["a"], train)).toarray()
    np.testing.assert_allclose(ignored, [[0, 1 / 3, 2 / 3]], atol=1e-6)


def test_markov_by_hand() -> None:
    """After a: b twice, c once. Of 6 events 3 are a, 2 b, 1 c. D = 1/2."""
    train = world(["ab", "ab", "ac"])
    model = Markov(order=1, discount=0.5).fit(train)
    left = 0.5 * 3 / 6 / 3  # taken off three items, spread over three
    popular = [2.5 / 6 + left, 1.5 / 6 + left, 0.5 / 6 + left]
    rest = 0.5 * 2 / 3
    after = [rest * popular[0], 1.5 / 3 + rest * popular[1], 0.5 / 3 + rest * popular[2]]
    assert after[1] == pytest.approx(11 / 18)
    found = np.exp(model.log_probabilities(questions(["", "a", "b", "ba"], train)))
    np.testing.assert_allclose(found, [popular, after, popular, after], rtol=1e-5)


def test_kneser_ney_counts_where_items_came_after() -> None:
    """c came often but only after a; d came after a and b: with little to go by, d is the likelier one."""
    train = world(["acxacxacx", "ad", "bd"])
    model = Markov(order=1, smoothing="kneser_ney", discount=0.5).fit(train)
    # Different pairs: ac, cx, xa, ad, bd; so c 1, x 1, a 1, d 2, b 0 of 5, and D·4/5 spread over 5 items.
    found = np.exp(model.log_probabilities(questions([""], train)))[0]
    expected = {"a": 0.5 / 5, "b": 0, "c": 0.5 / 5, "d": 1.5 / 5, "x": 0.5 / 5}
    np.testing.assert_allclose(found, [expected[name] + 0.5 * 4 / 5 / 5 for name in train.item_ids], rtol=1e-5)
    plain = np.exp(Markov(order=1, discount=0.5).fit(train).log_probabilities(questions([""], train)))[0]
    assert plain[2] > plain[3]
    assert found[2] < found[3]


def test_markov_takes_the_longest_context_it_knows() -> None:
    """x is followed by what stood before it, three places back."""
    train = world(["apqxa", "bpqxb", "cpqxc"] * 5)
    model = Markov(order=4, discount=0.1).fit(train)
    assert lists(model, ["apqx", "bpqx", "cpqx"], train, 1) == ["a", "b", "c"]
    probabilities = np.exp(Markov(order=3).fit(train).log_probabilities(questions(["apqx", "bpqx"], train)))
    np.testing.assert_allclose(probabilities[0], probabilities[1])


SESSIONS = st.lists(st.text("abcdef", min_size=1, max_size=9), min_size=1, max_size=12)
HISTORIES = st.lists(st.text("abcdef", max_size=6), min_size=1, max_size=4)


@given(SESSIONS, HISTORIES, st.integers(1, 4), st.sampled_from(["absolute", "kneser_ney"]), st.sampled_from([0.0, 0.7]))
@settings(max_examples=150, deadline=None)
def test_markov_probabilities_sum_to_one(
    sessions: list[str], histories: list[str], order: int, smoothing: str, discount: float
) -> None:
    train = world(sessions, items="abcdef")
    model = Markov(order=order, smoothing=smoothing, discount=discount).fit(train)
    found = np.exp(model.log_probabilities(questions(histories, train)).astype(np.float64))
    assert (found > 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1.0, atol=1e-5)


class Plain:
    """Session kNN as one would write it down: lists, loops and dictionaries."""

    def __init__(self, sessions: list[str], count: int, sample: int) -> None:
        self.sessions, self.count, self.sample = sessions, count, sample

    def idf(self, item: str) -> float:
        return math.log(len(self.sessions) / sum(item in session for session in self.sessions))

    def age(self, number: int) -> float:
        """Sessions begin a day apart and their events a second."""
        ends = [begin * DAY + len(session) - 1 for begin, session in enumerate(self.sessions)]
        return (max(ends) - ends[number]) / (max(ends) - 0.0)

    def votes(self, history: str, weight: Any, closeness: Any, vote: Any) -> dict[str, float]:
        sharing = [n for n in reversed(range(len(self.sessions))) if set(self.sessions[n]) & set(history)][
            : self.sample
        ]
        similar = []
        for number in sharing:
            common = set(self.sessions[number]) & set(history)
            steps = {item: len(history) - 1 - history.rindex(item) for item in common}
            newest_first = sorted(common, key=lambda item: steps[item])
            similarity = closeness(number, sum(weight(steps[item], item) for item in newest_first))
            similar.append((similarity, number, newest_first[0]))
        similar.sort(key=lambda one: -one[0])
        scores: dict[str, float] = Counter()
        for similarity, number, shared in similar[: self.count]:
            session, step = self.sessions[number], len(history) - 1 - history.rindex(shared)
            for item in set(session):
                apart = abs(session.rindex(item) - session.rindex(shared))
                scores[item] += vote(similarity, step, apart, item)
        return scores


def random_sessions(seed: int) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(seed)

    def draw(least: int) -> str:
        return "".join(rng.choice(list("abcdefghij"), rng.integers(least, 9), p=np.arange(10, 0, -1) / 55))

    return [draw(1) for _ in range(60)], [draw(1) for _ in range(8)]


def same_votes(model: Recommender, train: Interactions, histories: list[str], expected: list[dict[str, float]]) -> None:
    found = model.evidence(questions(histories, train)).toarray()  # type: ignore[attr-defined]
    wanted = np.array([[votes.get(name, 0.0) for name in train.item_ids] for votes in expected])
    assert np.count_nonzero(wanted) > 20
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("count", "sample"), [(5, 12), (60, 60), (3, 4)])
def test_vsknn_does_what_a_plain_program_does(seed: int, count: int, sample: int) -> None:
    sessions, histories = random_sessions(seed)
    train, plain = world(sessions), Plain(sessions, count, sample)

    def expected_of(history: str) -> dict[str, float]:
        return plain.votes(
            history,
            lambda step, item: (len(history) - step) / len(history),
            lambda number, similarity: similarity,
            lambda similarity, step, apart, item: similarity * math.exp(-step / 2) * (1 + 2.0 * plain.idf(item)),
        )

    expected = [expected_of(history) for history in histories]
    model = VSKNN(neighbours=count, sample=sample, weighting="division", decay="exponential", idf=2.0).fit(train)
    same_votes(model, train, histories, expected)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("count", "sample"), [(5, 12), (60, 60), (3, 4)])
def test_stan_does_what_a_plain_program_does(seed: int, count: int, sample: int) -> None:
    sessions, histories = random_sessions(seed)
    train, plain = world(sessions), Plain(sessions, count, sample)
    expected = [
        plain.votes(
            history,
            lambda step, item: math.exp(-step / 1.5),
            lambda n, similarity: similarity / math.sqrt(len(set(sessions[n]))) * math.exp(-plain.age(n) / 0.4),
            lambda similarity, step, apart, item: similarity * math.exp(-apart / 2.5),
        )
        for history in histories
    ]
    model = STAN(neighbours=count, sample=sample, lambda_spw=1.5, lambda_snh=0.4, lambda_inh=2.5).fit(train)
    same_votes(model, train, histories, expected)


@pytest.mark.parametrize("seed", range(6))
def test_vstan_does_what_a_plain_program_does(seed: int) -> None:
    sessions, histories = random_sessions(seed)
    train, plain = world(sessions), Plain(sessions, 7, 20)
    expected = [
        plain.votes(
            history,
            lambda step, item: plain.idf(item) ** 1.5 * math.exp(-step / 1.5),
            lambda n, similarity: similarity / len(set(sessions[n])) ** 0.3 * math.exp(-plain.age(n) / 0.4),
            lambda similarity, step, apart, item: (
                similarity**1.2 / math.log10(step + 2.7) * math.exp(-apart / 2.5) * (1 + 2.0 * plain.idf(item))
            ),
        )
        for history in histories
    ]
    decays = {"lambda_spw": 1.5, "lambda_snh": 0.4, "lambda_inh": 2.5}
    model = VSTAN(neighbours=7, sample=20, rarity=1.5, size=0.3, sharpness=1.2, idf=2.0, **decays).fit(train)
    same_votes(model, train, histories, expected)


def test_many_matches_are_looked_at_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, histories = random_sessions(1)
    train = world(sessions)
    model = STAN().fit(train)
    whole = model.evidence(questions(histories, train)).toarray()
    for at_once in (1, 30, 100):
        monkeypatch.setattr("training.session_neighbours.MATCHES", at_once)
        np.testing.assert_allclose(model.evidence(questions(histories, train)).toarray(), whole, rtol=1e-6)


def test_vsknn_names_its_decays() -> None:
    with pytest.raises(MarqueeError, match="vsknn: decay is one of same, linear, division"):
        VSKNN(decay="cubic")
    train = world(["ab", "ac", "bc"] * 3)
    for name in ("same", "linear", "division", "quadratic", "logarithmic", "exponential"):
        scores = VSKNN(weighting=name, decay=name).fit(train).score(questions(["abcabcabcabcabc"], train))
        assert np.isfinite(scores).all()


def test_item_similarities_by_hand() -> None:
    """a is in 3 sessions, b in 2, c in 2; ab in 2 together, ac in 1, bc in 0."""
    train = world(["ab", "ab", "ac", "c"])
    plain = ItemKNN(shrinkage=0.0).fit(train).similarities.toarray()
    ab, ac = 2 / math.sqrt(3 * 2), 1 / math.sqrt(3 * 2)
    np.testing.assert_allclose(plain, [[0, ab, ac], [ab, 0, 0], [ac, 0, 0]], rtol=1e-6)
    shrunk = ItemKNN(shrinkage=10.0, self_similarity=1.0).fit(train).similarities.toarray()
    ab, ac = 2 / (math.sqrt(3 * 2) + 10), 1 / (math.sqrt(3 * 2) + 10)
    np.testing.assert_allclose(shrunk, [[3 / 13, ab, ac], [ab, 2 / 12, 0], [ac, 0, 2 / 12]], rtol=1e-6)
    nearest = ItemKNN(shrinkage=0.0, neighbours=1).fit(train).similarities
    assert nearest.nnz == 3


@pytest.mark.parametrize("similarity", ["cosine", "tfidf", "bm25"])
def test_without_shrinkage_item_knn_is_the_librarys(similarity: str) -> None:
    from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender

    train = world(random_sessions(2)[0])
    library = {"cosine": CosineRecommender(10), "tfidf": TFIDFRecommender(10), "bm25": BM25Recommender(10)}[similarity]
    with warnings.catch_warnings(action="ignore"):  # it converts its own matrix, and warns of that
        library.fit(train.matrix().astype(np.float64), show_progress=False)
    ours = ItemKNN(similarity=similarity, shrinkage=0.0, neighbours=10, self_similarity=1.0).fit(train)
    theirs = np.maximum(library.similarity.toarray(), 0)
    assert np.count_nonzero(theirs) > 50
    np.testing.assert_allclose(ours.similarities.toarray(), theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block", [3, 1024])
def test_ease_is_its_formula(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions, histories = random_sessions(3)
    train = world(sessions)
    # Blocks of 3 items show whether the parts of the matrix are put together rightly.
    monkeypatch.setattr("training.models.ease.BLOCK", block)
    x = train.matrix().toarray().astype(np.float64)
    p = np.linalg.inv(x.T @ x + 7.0 * np.eye(train.item_count))
    b = np.eye(train.item_count) - p @ np.diag(1 / np.diag(p))
    model = EASE(regularisation=7.0).fit(train)
    np.testing.assert_allclose(model.weights, b, atol=1e-5)
    asked = questions(histories, train)
    np.testing.assert_allclose(model.score(asked), asked.histories.matrix().toarray() @ b, atol=1e-5)


def test_popular_by_hand() -> None:
    train = world(["ab", "b"], days=[0.0, 10.0])
    asked = questions([""], train)
    np.testing.assert_allclose(Popular().fit(train).score(asked), [[1 / 3, 2 / 3]], rtol=1e-6)
    np.testing.assert_allclose(Popular(days=5).fit(train).score(asked), [[0, 1]], rtol=1e-6)
    aged = Popular(half_life_days=10).fit(train).score(asked)
    np.testing.assert_allclose(aged, [[0.5 / 2, 1.5 / 2]], rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("exclude_seen", [False, True])
def test_lists_are_the_best_scores(name: str, exclude_seen: bool) -> None:
    """However a model makes its lists, they are what sorting all scores gives."""
    sessions, histories = random_sessions(4)
    train = world(sessions, items="abcdefghijklmnopqrst")
    model = model_class(name)().fit(train)
    asked = questions([*histories, ""], train)
    scores = model.score(asked)
    if exclude_seen:
        scores[asked.histories.users, asked.histories.items] = -np.inf
    for k in (1, 4, 20):
        items, values = model.recommend(asked, k, exclude_seen)
        assert np.array_equal(items, top_k(scores, k))
        np.testing.assert_array_equal(values, np.take_along_axis(scores, items, axis=1))


@pytest.mark.parametrize("name", NAMES)
def test_without_evidence_the_popular_come_first(name: str) -> None:
    """By events z 3, y 2, x 1; somebody without a history learns no more than that."""
    train = world(["zy", "zx", "zy"])
    assert lists(model_class(name)().fit(train), [""], train) == ["zyx"]


@pytest.mark.parametrize("name", NAMES)
def test_a_world_without_events_is_no_error(name: str) -> None:
    train = world(["ab", "ba"])
    nothing = train.where(np.zeros(len(train), dtype=bool))
    items, scores = model_class(name)().fit(nothing).recommend(questions(["", "ab"], train), 2)
    assert np.array_equal(np.sort(items, axis=1), [[0, 1], [0, 1]])
    assert not np.isnan(scores).any()


@pytest.mark.parametrize("name", NAMES)
def test_settings_to_try_are_settings(name: str) -> None:
    """What the search may propose, the model takes, at both ends of each range."""

    class Ends:
        def __init__(self, low: bool) -> None:
            self.low = low

        def suggest_float(self, name: str, low: float, high: float, **how: Any) -> float:
            return low if self.low else high

        def suggest_int(self, name: str, low: int, high: int, **how: Any) -> int:
            return low if self.low else high

        def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
            return choices[0 if self.low else -1]

    sessions, histories = random_sessions(5)
    train = world(sessions)
    for low in (True, False):
        proposed = model_class(name).space(Ends(low))
        assert proposed
        model = model_class(name)(**proposed).fit(train)
        assert not np.isnan(model.score(questions(histories, train))).any()


def diginetica() -> tuple[Interactions, Queries, Ints]:
    """All training sessions, all test prefixes and what came next."""
    folder = DATA / "diginetica"
    train_file, test_file = folder / "train_sessions.plain.txt.gz", folder / "test_pairs.plain.txt.gz"
    for file in (train_file, test_file):
        if not file.exists():
            pytest.skip(f"{file} is not here; set MARQUEE_DATA to the folder that holds diginetica/")
    with gzip.open(train_file, "rt") as lines:
        sessions = [line.split() for line in lines]
    users = np.repeat(np.char.mod("%06d", np.arange(len(sessions))), list(map(len, sessions)))
    items = np.array([item for session in sessions for item in session])
    train = from_events(users, items, np.arange(len(items), dtype=np.float64))
    with gzip.open(test_file, "rt") as lines:
        pairs = [line.rstrip("\n").split("\t") for line in lines]
    prefixes = [prefix.split() for prefix, _ in pairs]
    asked = np.array([item for prefix in prefixes for item in prefix])
    starts = np.cumsum([0, *map(len, prefixes)]).astype(np.int64)
    histories = Interactions(
        np.char.mod("test%06d", np.arange(len(pairs))),
        train.item_ids,
        starts,
        np.searchsorted(train.item_ids, asked),
        np.full(len(asked), float(len(items))),
        np.ones(len(asked), np.float32),
        np.zeros(len(asked), np.int64),
    )
    return train, ask(histories, train), np.searchsorted(train.item_ids, np.array([target for _, target in pairs]))


@pytest.mark.slow
def test_figures_on_diginetica() -> None:
    train, queries, targets = diginetica()
    assert (train.user_count, len(train), train.item_count, len(queries)) == (186_670, 906_140, 43_097, 60_858)
    found = {}
    for name in ("association_rules", "sequential_rules", "vsknn", "stan", "vstan"):
        items, _ = model_class(name)().fit(train).recommend(queries, 20)
        hit = items == targets[:, None]
        found[name] = (hit.any(axis=1).mean(), (hit / np.arange(1, 21)).sum(axis=1).mean())
    assert np.round(found["association_rules"], 3).tolist() == [0.437, 0.146]
    assert np.round(found["sequential_rules"], 3).tolist() == [0.404, 0.141]
    for name in ("vsknn", "stan", "vstan"):
        assert found[name][0] > 0.50
        assert found[name][1] > 0.18
