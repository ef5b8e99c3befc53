"""Ways to split a data set into what models learn from and what they are asked, exactly as published.

A model is asked over all items, never over sampled ones; in what it learns from, nothing is later than what it is
judged on: later than anything that it is judged on (``sessions``, ``temporal``), or than that user's
(``leave-one-out``, and ``given-split`` as far as the given lists are so).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from marquee.errors import MarqueeError
from training.harness.columns import ITEMS, SESSIONS, USERS
from training.harness.content import read_content
from training.harness.filtering import heads, recoded, tails
from training.harness.lists import are_pairs, read_pairs
from training.harness.questions import Splitting, border_of, make_task
from training.harness.reading import Events, Reading, described, fingerprint, read_events
from training.harness.session_split import given_sessions, sessions
from training.harness.task import Task
from training.interactions import ask

NAMES = ("sessions", "leave-one-out", "temporal", "given-split")


@dataclass(frozen=True, slots=True)
class Files:
    """Where the data are.

    Attributes:
        data: all events, or those to learn from where there is a test.
        test: what is asked: session-and-target pairs, sessions, or what users took; None splits ``data``.
        histories: what users of the test did before, where they are not in ``data``.
        items: what items are, a row each; the models that can learn from it then know items without events too.
        users: what else is known of users, a row each.
    """

    data: Path
    test: Path | None = None
    histories: Path | None = None
    items: Path | None = None
    users: Path | None = None

    @property
    def given(self) -> list[Path]:
        """Those that there are."""
        every = (self.data, self.test, self.histories, self.items, self.users)
        return [path for path in every if path is not None]


def read_task(protocol: str, files: Files, reading: Reading | None = None, splitting: Splitting | None = None) -> Task:
    """Read the files and split them; ``about`` says from what, how, and with what counts.

    Args:
        protocol: ``sessions``, ``leave-one-out``, ``temporal`` or ``given-split``.
        files: where the data are.
        reading: how to read them.
        splitting: how to split them.

    Raises:
        MarqueeError: there is no such protocol, it takes other files, a file cannot be read, or nothing is left.
    """
    reading, splitting = reading or Reading(), splitting or Splitting()
    if protocol not in NAMES:
        raise MarqueeError(f"there is no protocol {protocol!r}; there are {', '.join(NAMES)}")
    if files.histories and protocol != "given-split":
        raise MarqueeError(f"{protocol} takes no separate histories; only given-split does")
    if protocol == "sessions":
        task = _read_sessions(files, reading, splitting)
    elif protocol == "given-split":
        task = _read_given(files, reading, splitting)
    else:
        if files.test:
            raise MarqueeError(f"{protocol} splits one file itself; for train and test lists take given-split")
        events = _described(read_events(files.data, reading), files, reading)
        task = (leave_one_out if protocol == "leave-one-out" else temporal)(events, splitting)
    origin = {"files": [path.name for path in files.given], "sha256": fingerprint(files.given)}
    return replace(task, about={**origin, "reading": described(reading), **task.about})


def _read_sessions(files: Files, reading: Reading, splitting: Splitting) -> Task:
    train = _described(read_events(files.data, reading, "sessions"), files, reading)
    if files.test is None:
        return sessions(train, splitting)
    if are_pairs(files.test, table=train.about["format"] == "table"):
        return given_sessions(train, read_pairs(files.test), splitting)
    return given_sessions(train, read_events(files.test, _as_it_is(reading), "sessions"), splitting)


def _read_given(files: Files, reading: Reading, splitting: Splitting) -> Task:
    if files.test is None:
        raise MarqueeError("given-split needs a test file beside the data to learn from")
    train = _described(read_events(files.data, reading, "lists"), files, reading)
    test = _described(read_events(files.test, _as_it_is(reading), "lists"), files, reading)
    histories = read_events(files.histories, _as_it_is(reading), "lists") if files.histories else None
    return given_split(train, test, histories, splitting)


def _described(events: Events, files: Files, reading: Reading) -> Events:
    """The events with what the files say of items and users."""
    found, about = events.interactions, dict(events.about)
    if files.items:
        content = read_content(files.items, reading.item, ITEMS)
        found = replace(found, item_features=content.rows(found.item_ids))
        about |= {
            "item_features": len(content.names),
            "items_described": int(np.isin(found.item_ids, content.ids).sum()),
        }
    if files.users:
        content = read_content(files.users, reading.user, (*USERS, *SESSIONS))
        found = replace(found, user_features=content.rows(found.user_ids))
        about |= {
            "user_features": len(content.names),
            "users_described": int(np.isin(found.user_ids, content.ids).sum()),
        }
    return replace(events, interactions=found, about=about)


def _as_it_is(reading: Reading) -> Reading:
    """For a test that somebody made: no core of it, for whoever has few events there has more in training."""
    return replace(reading, min_user_events=1, min_item_events=1)


def leave_one_out(events: Events, splitting: Splitting) -> Task:
    """The last event of each user is asked for; the last but one is for validation.

    Training sees all but the last two events, and everything of users with less than three, who are not asked. At the
    test, the history asked with does hold the last but one: the model knows it without having learnt from it. So do
    Kang, McAuley, "Self-attentive sequential recommendation", ICDM 2018. Without ``hold_validation`` training sees all
    but the last, as in Zhai et al., "Actions speak louder than words", ICML 2024.

    What a user took already is left out of the recommendations, for in the sets that the protocol comes from nobody
    takes an item twice; so a user whose last item is a repetition is not asked. Read with ``first_only``, or give
    ``exclude_seen`` false, where repetitions matter.

    Users are split each at their own time, so training knows of others what came after the moment of asking (Ji, Sun,
    Zhang, Li, "A critical study on data leakage in recommender system offline evaluation", TOIS 2023): ``temporal``
    has no such leak.
    """
    found = events.interactions
    least = 3 if splitting.hold_validation else 2
    rows = np.flatnonzero(found.lengths >= least)
    held = np.where(found.lengths >= least, least - 1, 0)
    train = heads(found, np.arange(found.user_count), found.lengths - held)
    lengths = found.lengths[rows] - 1
    before, later = heads(found, rows, lengths), tails(found, rows, lengths)
    about = {"data": events.about, "timed": events.timed, "users_too_short": found.user_count - len(rows)}
    return make_task("leave-one-out", train, before, later, splitting, about)


def temporal(events: Events, splitting: Splitting) -> Task:
    """One border in time for everybody: models learn from what was before, and are asked at the border for what came.

    An answer is every item that a user took afterwards, each once, and only ones new to the user unless
    ``exclude_seen`` is false. Who came after the border is asked with an empty history, and items that came after it
    are missed by everybody: both are counted. Source: the global temporal split of Meng, McCreadie, Macdonald, Ounis,
    "Exploring data splitting strategies for the evaluation of recommendation models", RecSys 2020.
    """
    found = events.interactions
    if not events.timed:
        raise MarqueeError("the split temporal needs moments, and these data have none; name the time column")
    border = border_of(found.times, splitting, events.timed)
    past = found.times < border
    earlier = np.bincount(found.users[past], minlength=found.user_count)
    comes_back = found.lengths > earlier
    if not splitting.ask_new_users:
        comes_back &= earlier > 0
    rows = np.flatnonzero(comes_back)
    before, later = heads(found, rows, earlier[rows]), tails(found, rows, earlier[rows])
    about: dict[str, Any] = {"data": events.about, "timed": True, "border": border, "events_after": int((~past).sum())}
    about["users_new"] = int(((earlier == 0) & (found.lengths > 0)).sum())
    about["items_new"] = int((np.bincount(found.items[past], minlength=found.item_count) == 0).sum())
    return make_task("temporal", found.where(past), before, later, splitting, about, border)


def given_split(train: Events, test: Events, histories: Events | None, splitting: Splitting) -> Task:
    """Lists to learn from and lists to find, as somebody split them before.

    Users of the test are asked with what training has of them, as in He, Deng, Wang, Li, Zhang, Wang, "LightGCN",
    SIGIR 2020. With separate histories they are asked with those and need not be in training: the strong
    generalisation of Liang, Krishnan, Hoffman, Jebara, "Variational autoencoders for collaborative filtering",
    WWW 2018, with its fold-in events as the histories. Answers count once and, unless ``exclude_seen`` is false, only
    where they are new to the asker.
    """
    source = (histories or train).interactions
    ids = np.unique(np.concatenate([source.item_ids, test.interactions.item_ids]))
    later, known = recoded(test.interactions, ids), recoded(source, ids)
    rows = ask(later, known).users
    lengths = np.where(rows >= 0, known.lengths[np.maximum(rows, 0)], 0)
    # Row 0 stands in for a user that the source does not know, with a history of no events.
    before = replace(
        heads(known, np.maximum(rows, 0), lengths), user_ids=later.user_ids, user_features=later.user_features
    )
    about: dict[str, Any] = {"data": train.about, "test": test.about, "strong": histories is not None}
    if histories is not None:
        about["histories"] = histories.about
        about["users_also_in_training"] = int((ask(later, train.interactions).users >= 0).sum())
    return make_task("given-split", train.interactions, before, later, splitting, {**about, "timed": train.timed})
