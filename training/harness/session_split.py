"""The split by sessions: learn from the older ones, and ask every prefix of the newer ones for the next item."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import Any

import numpy as np

from marquee.errors import MarqueeError
from training.harness.coding import coded, from_codes
from training.harness.filtering import common_enough, dense, heads, long_enough, split_at_gaps, stretches
from training.harness.lists import Pairs
from training.harness.questions import Splitting, border_of, make_task, sampled
from training.harness.reading import Events
from training.harness.task import Task
from training.interactions import Interactions

MINUTE = 60.0


def sessions(events: Events, splitting: Splitting) -> Task:
    """The newest sessions are the test; each of their prefixes is asked for the next item, which may be a seen one.

    Sessions of one event go, then items with less than five events, then again sessions of one event. Sessions that
    end within the test's days are the test; items that training does not know go from them, and then again sessions of
    one event. Source: Hidasi, Karatzoglou, Baltrunas, Tikk, "Session-based recommendations with recurrent neural
    networks", ICLR 2016 (one day; Diginetica has seven days in Wu, Tang, Zhu, Wang, Xie, Tan, "Session-based
    recommendation with graph neural networks", AAAI 2019). One thing is stricter here: of a session that began
    earlier, items from before the last event of training are not asked for.
    """
    about: dict[str, Any] = {"data": events.about, "timed": events.timed}
    found = events.interactions
    minutes = splitting.gap_minutes
    if minutes is None:
        minutes = 30.0 if events.timed and not events.by_session else 0.0
    if minutes:
        found = split_at_gaps(found, minutes * MINUTE)
    least = splitting.least_session_events
    found = long_enough(common_enough(long_enough(found, least), splitting.least_item_events), least)
    found = dense(found, described=False)
    if not len(found):
        raise MarqueeError("no session is left: too few items with enough events, or too few sessions with enough")
    ends = found.times[found.starts[1:] - 1]
    border = border_of(ends, splitting, events.timed)
    train, test = dense(found.take(np.flatnonzero(ends < border))), found.take(np.flatnonzero(ends >= border))
    counts = {"border": border, "sessions": found.user_count, "sessions_in_test": test.user_count}
    return _ask_prefixes(train, test, splitting, {**about, **counts}, float(train.times.max(initial=-np.inf)))


def given_sessions(train: Events, test: Events | Pairs, splitting: Splitting) -> Task:
    """``sessions`` on a split that somebody made before: sessions to learn from, and sessions or pairs to ask."""
    about: dict[str, Any] = {"data": train.about, "timed": train.timed}
    if isinstance(test, Events):
        found = test.interactions
        if not test.timed:
            found = _after(found, train.interactions)
        return _ask_prefixes(train.interactions, found, splitting, {**about, "test": test.about})
    before, later, counts = _pair_questions(test, train.interactions)
    return make_task("sessions", train.interactions, before, later, splitting, {**about, **counts})


def _ask_prefixes(
    train: Interactions, test: Interactions, splitting: Splitting, about: dict[str, Any], earliest: float = -np.inf
) -> Task:
    """Every prefix of every test session is asked for the item behind it, if that came at ``earliest`` or later."""
    known = np.isin(test.item_ids, train.item_ids)[test.items]
    usable = dense(long_enough(test.where(known), splitting.least_session_events))
    place = np.arange(len(usable)) - np.repeat(usable.starts[:-1], usable.lengths)
    targets = np.flatnonzero((place > 0) & (usable.times >= earliest))
    too_early = int((place > 0).sum()) - len(targets)
    drawn = targets[sampled(len(targets), splitting)]
    askers = usable.users[drawn]
    before = heads(usable, askers, place[drawn])
    later = stretches(usable, askers, drawn, np.ones(len(drawn), np.int64))
    counts = {
        "targets_before_end_of_training": too_early,
        "test_events_unknown": int((~known).sum()),
        "sessions_asked": usable.user_count,
        "prefixes": len(targets),
    }
    return make_task("sessions", train, before, later, splitting, {**about, **counts})


def _after(test: Interactions, train: Interactions) -> Interactions:
    """Sessions of a second file: behind all of training, for times only count, and under names of their own."""
    return replace(test, times=test.times + train.times.max() + 1.0, user_ids=np.char.add("test-", test.user_ids))


def _pair_questions(pairs: Pairs, train: Interactions) -> tuple[Interactions, Interactions, dict[str, Any]]:
    """Histories and answers of given pairs whose target, and something of whose prefix, training knows."""
    width = len(str(pairs.sessions[-1] + 1))
    names = np.array([f"test-{number:0{width}d}" for number in pairs.sessions])
    item_ids, codes = coded([*chain.from_iterable(pairs.prefixes), *pairs.targets])
    known = np.append(np.isin(item_ids, train.item_ids), False)[codes]
    lengths = np.array([len(prefix) for prefix in pairs.prefixes])
    count, total = len(lengths), int(lengths.sum())
    rows = np.repeat(np.arange(count), lengths)
    useful = known[total:] & (np.bincount(rows[known[:total]], minlength=count) > 0)
    kept = known[:total] & useful[rows]
    code = np.cumsum(useful) - 1
    # Every prefix has a name of its own here, in the order of the file; questions of one session share one below.
    order = np.arange(int(useful.sum()))
    ranks = (np.char.mod("%09d", order), code[rows[kept]])
    begins = float(train.times.max()) + 1.0
    before = from_codes(ranks, (item_ids, codes[:total][kept]), begins + np.flatnonzero(kept).astype(np.float64))
    answers = codes[total:][useful]
    later = from_codes((ranks[0], order), (item_ids, answers), np.full(len(order), begins + total))
    shared = names[useful]
    counts = {"pairs": count, "pairs_unknown": count - len(order), "prefix_events_unknown": int((~known[:total]).sum())}
    return replace(before, user_ids=shared), replace(later, user_ids=shared), counts
