"""Sessions that leave the training rows: judged on the warehouse, kept in a file, and counted."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.flags import FLAGS, exclusion, flagged_sessions, flagged_sessions_file, note_of
from marquee.errors import NothingToDo
from marquee.settings import Settings
from training.anomaly import REASONS, AnomalySettings, Judgement, judge_sessions
from training.interactions import Interactions
from training.recommender import model_names
from training.visits import Visits, read_visits

LEAST_SESSIONS = 100
"""From fewer sessions nobody can tell what is usual."""


@dataclass(frozen=True, slots=True)
class Flags:
    """What the judging came to.

    Attributes:
        sessions: there were, without those of days that the cleaning rules leave out.
        judged: were long enough to tell.
        flagged: leave the training rows.
        by_reason: how many of them for each of ``REASONS``.
        model: that said how likely the sessions were.
        note: why nothing was judged, or that only the worst were flagged; empty otherwise.
    """

    sessions: int = 0
    judged: int = 0
    flagged: int = 0
    by_reason: dict[str, int] | None = None
    model: str = ""
    note: str = ""


def flag_sessions(settings: Settings, anomaly: AnomalySettings | None = None) -> Flags:
    """Judge all sessions of the warehouse and write the flagged ones where the training set is built from.

    The same warehouse gives the same file. Turned off by ``flag_sessions``, it writes that nothing is flagged.
    """
    anomaly = anomaly or AnomalySettings()
    if not settings.flag_sessions:
        return _write(settings, None, None, Flags(note="turned off by the setting flag_sessions"))
    if anomaly.model not in model_names():
        return _write(settings, None, None, Flags(note=f"there is no model {anomaly.model}"))
    try:
        visits = read_visits(settings)
    except NothingToDo as reason:
        return _write(settings, None, None, Flags(note=str(reason)))
    count = visits.sessions.user_count
    if np.count_nonzero(visits.sessions.lengths >= anomaly.least_events) < LEAST_SESSIONS:
        note = f"fewer than {LEAST_SESSIONS} sessions of {anomaly.least_events} events: nobody can tell what is usual"
        return _write(settings, None, None, Flags(count, note=note))
    found = judge_sessions(visits.sessions, visits.visitors, anomaly)
    reasons = np.bincount(found.reason[found.flagged], minlength=len(REASONS))
    capped = int((found.score > 1.0).sum()) > int(found.flagged.sum())
    flags = Flags(
        sessions=count,
        judged=int(found.judged.sum()),
        flagged=int(found.flagged.sum()),
        by_reason={name: int(reasons[place]) for place, name in enumerate(REASONS)},
        model=anomaly.model,
        note=f"more were beyond a limit; only the worst {anomaly.most_flagged:.0%} are flagged" if capped else "",
    )
    return _write(settings, visits, found, flags)


def unflagged_visits(settings: Settings) -> Interactions:
    """What visitors looked at, without the sessions that were flagged when they were judged last.

    Raises:
        NothingToDo: there is nothing to read yet.
    """
    visits = read_visits(settings)
    flags = flagged_sessions(settings)
    odd = set(zip(flags.column("visitor_id").to_pylist(), flags.column("session_id").to_pylist(), strict=True))
    keys = zip(visits.visitors.tolist(), visits.session_ids.tolist(), strict=True)
    return visits.sessions.take(np.flatnonzero([key not in odd for key in keys]))


def worst_sessions(settings: Settings, count: int) -> list[dict[str, Any]]:
    """The flagged sessions with the highest scores, worst first: visitor, session, score, reason and events."""
    rows: list[dict[str, Any]] = pq.read_table(flagged_sessions_file(settings)).slice(0, count).to_pylist()
    return rows


def exclusion_report(settings: Settings) -> dict[str, Any]:
    """What the judging came to and what it took from the training set built last, for a bundle's report."""
    flags = note_of(flagged_sessions_file(settings), FLAGS)
    return {**asdict(Flags()), **flags, **exclusion(settings)}


def _write(settings: Settings, visits: Visits | None, found: Judgement | None, flags: Flags) -> Flags:
    rows = np.zeros(0, np.int64)
    columns: dict[str, Any] = {"visitor_id": [], "session_id": [], "score": [], "reason": [], "events": []}
    if visits is not None and found is not None:
        score = found.score
        rows = np.flatnonzero(found.flagged)
        rows = rows[np.argsort(-score[rows], kind="stable")]
        columns = {
            "visitor_id": visits.visitors[rows].tolist(),
            "session_id": visits.session_ids[rows].tolist(),
            "score": np.round(score[rows], 4).tolist(),
            "reason": [REASONS[place] for place in found.reason[rows]],
            "events": visits.sessions.lengths[rows].tolist(),
        }
    types = [pa.string(), pa.string(), pa.float64(), pa.string(), pa.int64()]
    table = pa.table({name: pa.array(column, types[i]) for i, (name, column) in enumerate(columns.items())})
    path = flagged_sessions_file(settings)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    pq.write_table(table.replace_schema_metadata({FLAGS: json.dumps(asdict(flags))}), partial)
    partial.replace(path)
    return flags
