"""Rows in order, compared question by question, as a table for a terminal and as files for people and programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from training.harness.bench import Row
from training.harness.intervals import difference

BASELINE = "popular"
Interval = dict[str, float]
"""``value``, ``low`` and ``high``."""


@dataclass(frozen=True, slots=True)
class Board:
    """All rows of one bench.

    Attributes:
        metric: what they are ordered by.
        rows: finished ones, best first, ties by name; then failed ones.
        to_best: difference of each finished row to the first, with its interval, by model.
        to_baseline: the same to popularity; empty where that was not judged.
    """

    metric: str
    rows: list[Row]
    to_best: dict[str, Interval]
    to_baseline: dict[str, Interval]

    @property
    def finished(self) -> list[Row]:
        """Rows with figures, best first."""
        return [row for row in self.rows if not row.error]

    @property
    def failed(self) -> list[Row]:
        """Rows without."""
        return [row for row in self.rows if row.error]


def make_board(rows: list[Row], metric: str, askers: NDArray[np.str_], seed: int) -> Board:
    """Put rows in order and compare them question by question.

    Args:
        rows: finished and failed, in any order.
        metric: what decides.
        askers: [n] who asked each question; what one asked is drawn together.
        seed: of the bootstrap.
    """
    failed = [row for row in rows if row.error]
    finished = [row for row in rows if not row.error]
    finished.sort(key=lambda row: (-row.result["metrics"][metric]["value"], row.model))
    baseline = next((row for row in finished if row.model == BASELINE), None)

    def against(other: Row | None) -> dict[str, Interval]:
        if other is None:
            return {}
        theirs = {metric: other.values[metric]}
        gaps = {
            row.model: difference({metric: row.values[metric]}, theirs, askers, seed)[metric]
            for row in finished
            if row.model != other.model
        }
        return {name: asdict(gap) for name, gap in gaps.items()}

    return Board(metric, finished + failed, against(finished[0] if finished else None), against(baseline))


def table_rows(board: Board, names: list[str]) -> tuple[list[str], list[list[object]]]:
    """Columns and cells of the table for a terminal, which has no room for every interval.

    Args:
        board: all rows.
        names: metrics in the table, the deciding one first.
    """
    columns = ["model", f"{names[0]} [95 %]", *names[1:], "to best", f"to {BASELINE}", "fit s", "s/epoch", "peak MB"]
    columns += ["p50/p99 ms", "questions/s"]
    cells: list[list[object]] = []
    for row in board.finished:
        metrics, cost, speed = (row.result[part] for part in ("metrics", "cost", "speed"))
        cells.append(
            [
                row.model,
                shown(metrics[names[0]]),
                *(f"{metrics[name]['value']:.4f}" for name in names[1:]),
                shown_difference(board.to_best.get(row.model)),
                f"{board.to_baseline[row.model]['value']:+.4f}" if row.model in board.to_baseline else "–",
                f"{cost['fit_s']:.1f}",
                f"{cost['epoch_s']:.2f}" if cost["epochs"] else "–",
                f"{cost['peak_mb']:.0f}",
                f"{speed['p50_ms']:.2f}/{speed['p99_ms']:.2f}" if speed else "–",
                f"{speed['per_second']:,.0f}" if speed else "–",
            ]
        )
    return columns, cells


def short_list(board: Board) -> list[str]:
    """Metrics for a narrow table: the deciding one, then recall and MRR over the longest lists."""
    longest = max(int(name.partition("@")[2]) for name in board.finished[0].result["metrics"])
    return list(dict.fromkeys([board.metric, f"recall@{longest}", f"mrr@{longest}"]))


def conclusion(board: Board) -> str:
    """What the table says, in a sentence."""
    if not board.finished:
        return "No model could be judged."
    best, *others = board.finished
    text = f"{best.model} is best: {board.metric} {shown(best.result['metrics'][board.metric])}."
    if not others:
        return text
    close = [row.model for row in others if board.to_best[row.model]["high"] >= 0]
    if close:
        return f"{text} Not told apart from it by these questions: {', '.join(close)}."
    gap = shown_difference(board.to_best[others[0].model])
    return f"{text} Every other model is worse by more than chance; next is {others[0].model}, {gap}."


def shown(estimate: Interval) -> str:
    """A value with its interval."""
    return f"{estimate['value']:.4f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"


def shown_difference(estimate: Interval | None) -> str:
    """A difference with its interval; nothing for a model's difference to itself."""
    if estimate is None:
        return "–"
    return f"{estimate['value']:+.4f} [{estimate['low']:+.3f}, {estimate['high']:+.3f}]"
