"""Sessions that are hardly anybody's: the likelihood of what was looked at, and the pace at which it was."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marquee.errors import MarqueeError
from training.interactions import Interactions, Ints
from training.likelihood import SequenceModel, Surprise, sequence_model, surprise

Values = NDArray[np.float64]
REASONS = ("unlikely path", "repetitive path", "too fast")
"""Why a session is flagged, in the order of the columns of ``Judgement.scores``."""
TO_DEVIATION = 1.4826
"""A normal distribution's standard deviation in median absolute deviations."""
LEAST_VARIANCE = 0.05
"""Of one event's surprise, in nats²: where a model is sure of everything, a small surprise is still none."""
LEAST_PACE_SPREAD = 0.25
"""Of the logarithm of seconds between events: where all keep one time, a quarter more or less is no haste."""


@dataclass(frozen=True, slots=True)
class AnomalySettings:
    """Plain values. A limit is in robust standard deviations of the sessions that are judged.

    Attributes:
        model: a model that gives probabilities.
        model_settings: its settings that differ from the defaults.
        folds: visitors are dealt into so many parts, and each is judged by a model that learned from the others: a
            path that a bot alone takes, however often, is then known to no model that judges it.
        rounds: times that all are judged; the flagged ones of a round teach the next one nothing.
        history: newest events that the model is told; see ``surprise``.
        least_events: shorter sessions are not judged.
        unlikely: limit of surprise above what the model expects.
        repetitive: limit of surprise below what the model expects.
        fast: limit of the logarithm of the middle pause between events, below the usual.
        most_flagged: share of the judged sessions that may be flagged, the worst first; a log that has more to flag
            is not what the model takes it for.
    """

    model: str = "markov"
    model_settings: dict[str, Any] = field(default_factory=lambda: {"order": 1})
    folds: int = 4
    rounds: int = 2
    history: int = 1
    least_events: int = 3
    unlikely: float = 2.75
    repetitive: float = 5.0
    fast: float = 6.0
    most_flagged: float = 0.1

    def __post_init__(self) -> None:
        if self.folds < 2 or self.rounds < 1 or self.history < 1 or self.least_events < 2:
            raise MarqueeError("it takes 2 folds, 1 round, a history of 1 event and sessions of 2 events at least")
        if not 0.0 <= self.most_flagged <= 0.5:
            raise MarqueeError("at most half of the sessions can be flagged: what most do is usual")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What speaks for and against each of U sessions.

    Attributes:
        surprise: what the model thought of it.
        pace: [U] natural logarithm of the middle pause between its events in seconds; NaN where there is none.
    """

    surprise: Surprise
    pace: Values


@dataclass(frozen=True, slots=True)
class Usual:
    """What the sessions are usually like, robustly: medians, and median absolute deviations as deviations.

    Attributes:
        excess: surprise of an event above what the model expects, for it has not learnt from these sessions.
        middle: of the standardised excess.
        spread: of the standardised excess; 1 if the model were the truth.
        pace: logarithm of seconds.
        pace_spread: its deviation.
    """

    excess: float
    middle: float
    spread: float
    pace: float
    pace_spread: float


@dataclass(frozen=True, slots=True)
class Judgement:
    """How odd each of U sessions is.

    Attributes:
        judged: [U] whether it was long enough to tell.
        scores: [U, 3] in units of each limit, for each of the ``REASONS``: above 1 is beyond it; 0 if not judged.
        flagged: [U] whether it is to be left out.
        usual: what it was held against; None where no session was long enough.
    """

    judged: NDArray[np.bool_]
    scores: Values
    flagged: NDArray[np.bool_]
    usual: Usual | None

    @property
    def score(self) -> Values:
        """[U] the highest of a session's scores."""
        highest: Values = self.scores.max(axis=1)
        return highest

    @property
    def reason(self) -> Ints:
        """[U] place in ``REASONS`` of a session's highest score."""
        highest: Ints = np.argmax(self.scores, axis=1)
        return highest


def judge_sessions(sessions: Interactions, visitors: NDArray[np.str_], settings: AnomalySettings) -> Judgement:
    """Judge sessions against each other, each by a model that has not seen its visitor.

    Args:
        sessions: a history each; they are also what is usual.
        visitors: [U] whose session it is.
        settings: see there.
    """
    judged = sessions.lengths >= settings.least_events
    if not judged.any():
        return Judgement(judged, np.zeros((len(judged), len(REASONS))), judged, None)
    tempo, fold = pace(sessions), _folds(visitors, settings.folds)
    flagged = np.zeros(len(judged), dtype=bool)
    for _ in range(settings.rounds):
        evidence = Evidence(_by_strangers(sessions, fold, ~flagged, settings), tempo)
        found = judgement(evidence, usual(evidence, judged & ~flagged), judged, settings)
        if np.array_equal(found.flagged, flagged):
            break
        flagged = found.flagged
    return found


def judge_others(sessions: Interactions, model: SequenceModel, measure: Usual, settings: AnomalySettings) -> Judgement:
    """Judge sessions that the model has not learnt from by what others, ``judge_sessions``' own, are like."""
    evidence = Evidence(surprise(model, sessions, settings.history), pace(sessions))
    return judgement(evidence, measure, sessions.lengths >= settings.least_events, settings)


def _by_strangers(
    sessions: Interactions, fold: Ints, teaching: NDArray[np.bool_], settings: AnomalySettings
) -> Surprise:
    """What a model of the other folds' teaching sessions thinks of each session."""
    sums = np.zeros((5, sessions.user_count))
    for number in range(settings.folds):
        part = np.flatnonzero(fold == number)
        if not len(part):
            continue
        model = sequence_model(settings.model, **settings.model_settings)
        model.fit(sessions.take(np.flatnonzero((fold != number) & teaching)))
        found = surprise(model, sessions.take(part), settings.history)
        sums[:, part] = (found.events, found.likelihood, found.found, found.expected, found.variance)
    return Surprise(sums[0].astype(np.int64), *sums[1:])


def pace(sessions: Interactions) -> Values:
    """[U] natural logarithm of the middle pause between events, in seconds.

    Events at one and the same moment say nothing: a source may know no more than the minute or the day.
    """
    pauses, users = np.diff(sessions.times), sessions.users
    usable = (users[1:] == users[:-1]) & (pauses > 0) if len(sessions) else np.zeros(0, dtype=bool)
    logs, owners = np.log(pauses[usable]), users[1:][usable]
    logs = logs[np.lexsort((logs, owners))]
    counts = np.bincount(owners, minlength=sessions.user_count)
    starts = np.concatenate([[0], np.cumsum(counts)])[:-1]
    found = np.full(sessions.user_count, np.nan)
    some = counts > 0
    low, high = (starts + (counts - 1) // 2)[some], (starts + counts // 2)[some]
    found[some] = (logs[low] + logs[high]) / 2
    return found


def usual(evidence: Evidence, judged: NDArray[np.bool_]) -> Usual:
    """What the judged sessions are like; a few bots among them move a median little."""
    found = evidence.surprise
    excess = (found.found - found.expected)[judged] / found.events[judged]
    typical = float(np.median(excess))
    standardised = _standardised(evidence, typical)[judged]
    middle = float(np.median(standardised))
    spread = TO_DEVIATION * float(np.median(np.abs(standardised - middle)))
    paces = evidence.pace[judged & ~np.isnan(evidence.pace)]
    tempo = float(np.median(paces)) if len(paces) else 0.0
    tempo_spread = TO_DEVIATION * float(np.median(np.abs(paces - tempo))) if len(paces) else 0.0
    return Usual(typical, middle, max(spread, 1e-3), tempo, max(tempo_spread, LEAST_PACE_SPREAD))


def judgement(evidence: Evidence, measure: Usual, judged: NDArray[np.bool_], settings: AnomalySettings) -> Judgement:
    """Hold evidence against what is usual.

    Were the model the truth, the surprise at an event less what the model expects of it would be 0 on average whatever
    came before, so its sum over a session, standardised, is near normal whatever the length (Nalisnick et al.,
    "Detecting out-of-distribution inputs to deep generative models using typicality", 2019, test the same mean). A
    model that generalises imperfectly is off by a little at every event; ``Usual`` takes that out.
    """
    path = (_standardised(evidence, measure.excess) - measure.middle) / measure.spread
    haste = np.nan_to_num((measure.pace - evidence.pace) / measure.pace_spread)
    columns = [path / settings.unlikely, -path / settings.repetitive, haste / settings.fast]
    scores = np.where(judged[:, None], np.maximum(np.column_stack(columns), 0.0), 0.0)
    highest = scores.max(axis=1)
    flagged = highest > 1.0
    most = int(settings.most_flagged * judged.sum())
    if flagged.sum() > most:
        worst = np.argsort(-highest, kind="stable")[:most]
        flagged[:] = False
        flagged[worst] = True
    return Judgement(judged, scores, flagged, measure)


def _standardised(evidence: Evidence, excess: float) -> Values:
    found = evidence.surprise
    above = found.found - found.expected - excess * found.events
    standardised: Values = above / np.sqrt(np.maximum(found.variance + LEAST_VARIANCE * found.events, 1e-12))
    return standardised


def _folds(visitors: NDArray[np.str_], count: int) -> Ints:
    """[U] part of each session: all of a visitor's are in one, whoever else there is."""
    names, visitor = np.unique(visitors, return_inverse=True)
    numbers = np.array([zlib.crc32(name.encode("utf-8", "surrogatepass")) % count for name in names], dtype=np.int64)
    return numbers[visitor.ravel()]
