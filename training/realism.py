"""How good synthetic sessions are: as a stand-in for real ones, in what they look like, and in what they give away."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray
from scipy.stats import spearmanr

from marquee.errors import MarqueeError
from training.copies import copy_report
from training.harness.filtering import dense, recoded
from training.harness.intervals import difference, intervals
from training.harness.measures import per_question
from training.harness.questions import Splitting, border_of
from training.harness.reading import Events
from training.harness.session_split import given_sessions
from training.harness.task import Task
from training.interactions import Interactions
from training.recommender import model_class
from training.synthetic import Synthetic

K = 20
LONGEST_SHOWN = 30
"""Sessions of so many events or more are counted together."""


@dataclass(frozen=True, slots=True)
class Judging:
    """How to judge.

    Attributes:
        judge: the recommender that learns from real and from synthetic sessions; better another kind of model than
            the one that sampled them, which finds in them what it put there.
        questions: asked at most, drawn at random; 0 asks all.
        least_copy: shorter sessions are not looked at for copies.
        seed: of all that is drawn.
    """

    judge: str = "vsknn"
    questions: int = 20_000
    least_copy: int = 3
    seed: int = 7


def split_sessions(sessions: Interactions, share: float, timed: bool) -> tuple[Interactions, Interactions]:
    """Older sessions to learn from, and the newest ``share`` of them, over the same item codes.

    The items are those of the older sessions; another one's code is -1.

    Raises:
        MarqueeError: one of both is empty.
    """
    some = sessions.take(np.flatnonzero(sessions.lengths > 0))
    if not some.user_count:
        raise MarqueeError("there is no session to learn from")
    ends = some.times[some.starts[1:] - 1]
    border = border_of(ends, Splitting(test_share=share), timed)
    train, held_out = dense(some.take(np.flatnonzero(ends < border))), some.take(np.flatnonzero(ends >= border))
    if not train.user_count:
        raise MarqueeError("all sessions end at one moment, so none can be held out for a later time")
    return train, recoded(held_out, train.item_ids)


def judge_synthetic(made: Synthetic, train: Interactions, held_out: Interactions, judging: Judging) -> dict[str, Any]:
    """All three reports, as plain JSON values.

    Args:
        made: sampled from a model fitted on ``train``.
        train: real sessions.
        held_out: real sessions of a later time, over the same items.
        judging: see there.

    Raises:
        MarqueeError: no synthetic session is left, or there is none to ask.
    """
    if not made.sessions.user_count:
        raise MarqueeError("the model has nothing but copies of real sessions to give; take another model or more data")
    return {
        "sessions": made.sessions.user_count,
        "events": len(made.sessions),
        "copies_dropped": made.dropped,
        "utility": utility(made.sessions, train, held_out, judging),
        "closeness": closeness(made.sessions, train, held_out, judging.seed),
        "copies": copy_report(made.sampled, held_out, train, judging.least_copy, judging.seed),
    }


def utility(made: Interactions, train: Interactions, held_out: Interactions, judging: Judging) -> dict[str, Any]:
    """Train on synthetic, test on real: the same recommender learns from equally many real and synthetic sessions.

    Both are asked for the next item at every prefix of the later real sessions. Source: Esteban, Hyland, Rätsch,
    "Real-valued (medical) time series generation with recurrent conditional GANs", 2017. What popularity alone gives,
    learnt from the real ones, says how much there was to lose.
    """
    count = min(made.user_count, train.user_count)
    rows = np.sort(np.random.default_rng(judging.seed).choice(train.user_count, count, replace=False))
    splitting = Splitting(most_queries=judging.questions, seed=judging.seed)
    task = given_sessions(Events(train, True, True), Events(_known(held_out), True, True), splitting)
    sides = {
        "real": (judging.judge, train.take(rows)),
        "synthetic": (judging.judge, made.take(np.arange(count))),
        "popular": ("popular", train.take(rows)),
    }
    metric = f"hr@{K}"
    values = {name: _quality(task, *side)[metric] for name, side in sides.items()}
    askers = task.queries.histories.user_ids
    found = intervals(values, askers, judging.seed)
    gap = difference({metric: values["real"]}, {metric: values["synthetic"]}, askers, judging.seed)[metric]
    return {
        "metric": metric,
        "judge": judging.judge,
        "sessions": count,
        "questions": len(task.queries),
        **{name: asdict(one) for name, one in found.items()},
        "gap": asdict(gap),
    }


def closeness(made: Interactions, train: Interactions, held_out: Interactions, seed: int) -> dict[str, Any]:
    """How much alike distributions are, of synthetic sessions and of as many later real ones, each with the training's.

    Overlap is 1 − half the sum of differences of shares (total variation): 1 where distributions are equal. Real
    sessions of a later time overlap by less than 1 too, for there are not many of them and times change.
    """
    real = _known(held_out)
    count, rng = min(made.user_count, real.user_count), np.random.default_rng(seed)
    sides = (("synthetic", made), ("held_out", real))
    alike = {
        name: _alike(part.take(np.sort(rng.choice(part.user_count, count, replace=False))), train)
        for name, part in sides
    }
    return {"sessions": count, **alike}


def length_shares(sessions: Interactions) -> NDArray[np.float64]:
    """[LONGEST_SHOWN + 1] share of sessions by number of events."""
    counts = np.bincount(np.minimum(sessions.lengths, LONGEST_SHOWN), minlength=LONGEST_SHOWN + 1)
    shares: NDArray[np.float64] = counts / max(1, counts.sum())
    return shares


def item_shares(sessions: Interactions) -> NDArray[np.float64]:
    """[I] share of events by item."""
    counts = np.bincount(sessions.items, minlength=sessions.item_count)
    shares: NDArray[np.float64] = counts / max(1, counts.sum())
    return shares


def transition_shares(sessions: Interactions) -> Any:
    """[I, I] CSR: share of pairs of successive events by item before and item after."""
    users = sessions.users
    places = np.flatnonzero(users[1:] == users[:-1])
    pair = (np.ones(len(places)), (sessions.items[places], sessions.items[places + 1]))
    counts = sparse.csr_matrix(pair, shape=(sessions.item_count, sessions.item_count))
    return counts / max(1.0, counts.sum())


def _alike(part: Interactions, train: Interactions) -> dict[str, float | None]:
    items, real = item_shares(part), item_shares(train)
    steps = abs(transition_shares(part) - transition_shares(train)).sum()
    lengths = np.abs(length_shares(part) - length_shares(train)).sum()
    # Of shares that are all alike there is no order.
    correlated = float(spearmanr(items, real).statistic) if np.ptp(items) and np.ptp(real) else None
    return {
        "popularity_correlation": correlated,
        "popularity_overlap": 1.0 - float(np.abs(items - real).sum()) / 2,
        "transition_overlap": 1.0 - float(steps) / 2,
        "length_overlap": 1.0 - float(lengths) / 2,
        "items_covered": float(np.mean(items > 0)),
    }


def _quality(task: Task, model: str, train: Interactions) -> dict[str, NDArray[np.float64]]:
    fitted = model_class(model)().fit(train)
    items, _ = fitted.recommend(task.queries, min(K, len(task.train.item_ids)))
    if items.shape[1] < K:
        items = np.pad(items, ((0, 0), (0, K - items.shape[1])), constant_values=-1)
    return per_question(items, task.truth, [K])


def _known(sessions: Interactions) -> Interactions:
    """Only events with items that training knows."""
    kept = sessions.where(sessions.items >= 0)
    return kept.take(np.flatnonzero(kept.lengths > 0))
