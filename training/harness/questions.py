"""What a protocol asks and what is right, put together in one way for all protocols."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from marquee.errors import MarqueeError
from training.harness.filtering import dense, first_events, recoded
from training.harness.task import Task, Truth
from training.interactions import Interactions, Ints, Queries, ask

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Splitting:
    """How to split; each protocol takes what concerns it.

    Attributes:
        test_days: the last so many days are the test; 0 goes by ``test_share``.
        test_share: share of the newest sessions (``sessions``) or events (``temporal``) that are the test; also what
            a validation split holds out of each user's events in ``given-split``.
        gap_minutes: a pause of so many minutes ends a session; 0 never; None is 30 where the table names users, and
            never where it names sessions.
        least_item_events: ``sessions``: items with fewer events are left out.
        least_session_events: ``sessions``: sessions with fewer events are left out.
        hold_validation: ``leave-one-out``: keep the last but one event of each user out of training, for validation.
        exclude_seen: leave items of the history out of answers and recommendations; no matter in ``sessions``.
        ask_new_users: ``temporal``: ask for users without any event before the border too.
        most_queries: at most so many questions, drawn at random; 0 asks all.
        seed: of that draw, and of what ``given-split`` holds out for validation.
    """

    test_days: float = 0.0
    test_share: float = 0.1
    gap_minutes: float | None = None
    least_item_events: int = 5
    least_session_events: int = 2
    hold_validation: bool = True
    exclude_seen: bool = True
    ask_new_users: bool = True
    most_queries: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 < self.test_share < 1.0:
            raise MarqueeError(f"the test share is {self.test_share:g}; it should be between 0 and 1")
        if self.test_days < 0 or self.most_queries < 0:
            raise MarqueeError("days of the test and the number of questions cannot be negative")


def sampled(count: int, splitting: Splitting) -> Ints:
    """Rows of the questions to ask, in order: all, or ``most_queries`` of them drawn with the seed."""
    if not splitting.most_queries or count <= splitting.most_queries:
        return np.arange(count)
    drawn = np.random.default_rng(splitting.seed).choice(count, splitting.most_queries, replace=False)
    return np.sort(drawn).astype(np.int64)


def border_of(times: Any, splitting: Splitting, timed: bool) -> float:
    """Where the test begins: so many days before the last of the times, or where its share of them does.

    Raises:
        MarqueeError: days are asked for where times only count.
    """
    if splitting.test_days and not timed:
        raise MarqueeError("the data have no moments, so the test cannot be some days; give its share instead")
    if splitting.test_days:
        return float(times.max() - splitting.test_days * DAY)
    return float(np.quantile(times, 1.0 - splitting.test_share, method="higher"))


def make_task(
    protocol: str,
    train: Interactions,
    before: Interactions,
    later: Interactions,
    splitting: Splitting,
    about: dict[str, Any],
    moment: float | None = None,
) -> Task:
    """Questions and answers over the items that training knows.

    Args:
        protocol: its name.
        train: what models learn from; users and items without events are left out of it.
        before: [q] what each asker did up to the question.
        later: [q] what each did then, over the same items as ``before``; the questions are asked in the context of
            its first event. Questions where nothing is left of it are not asked.
        splitting: whether answers are new to the asker (then each counts once), and how many questions are drawn.
        about: counts so far.
        moment: when all are asked; None is right after each one's last event.

    Raises:
        MarqueeError: there is nothing to learn from, or no question is left.
    """
    exclude_seen = protocol != "sessions" and splitting.exclude_seen
    answers = later if protocol == "sessions" else first_events(later)
    if exclude_seen:
        answers = _unseen(answers, before)
    possible = np.flatnonzero(answers.lengths > 0)
    asked = possible[sampled(len(possible), splitting)]
    known = dense(train)
    if not len(known) or not len(asked):
        nothing = "event to learn from" if not len(known) else "question to ask"
        raise MarqueeError(f"the split {protocol} leaves no {nothing}; give it more data, or another share or days")
    contexts = later.contexts[later.starts[asked]]
    histories = recoded(before.take(asked), known.item_ids)
    usable = replace(histories.where(histories.items >= 0), item_features=known.item_features)
    right = recoded(answers.take(asked), known.item_ids)
    queries = ask(usable, known)
    queries = Queries(usable, queries.users, _moments(queries, moment), contexts)
    counts = {
        "events": len(known),
        "users": known.user_count,
        "items": known.item_count,
        "questions": len(asked),
        "questions_possible": len(possible),
        "questions_without_new_answer": int((later.lengths > 0).sum()) - len(possible),
        "questions_without_history": int((usable.lengths == 0).sum()),
        "questions_by_unknown_users": int((queries.users < 0).sum()),
        "answers": len(right),
        "answers_unknown": int((right.items < 0).sum()),
        "history_events_unknown": int((histories.items < 0).sum()),
    }
    plain = {"splitting": asdict(splitting), **about, **counts}
    return Task(protocol, known, queries, Truth(right.starts, right.items), exclude_seen, plain)


def _moments(queries: Queries, moment: float | None) -> Any:
    return queries.times if moment is None else np.full(len(queries), moment)


def _unseen(answers: Interactions, before: Interactions) -> Interactions:
    """The answers that are not in the same row's history."""
    seen = before.users * before.item_count + before.items
    return answers.where(~np.isin(answers.users * answers.item_count + answers.items, seen))
