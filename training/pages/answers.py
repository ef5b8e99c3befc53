"""What the page model answers with: actions, states, figures, clusters and edges."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.pages.graph import PageGraph


@dataclass(frozen=True, slots=True)
class PageAction:
    """A page to recommend on another.

    Attributes:
        page: its name.
        gain: amount by which recommending it raises what is left of the session, on average, over recommending
            nothing here and the best from the next page on.
        value: expected amount of orders from a view of it to the end of the session, under the policy.
        probability: that the visitor goes there next when it is recommended.
    """

    page: str
    gain: float
    value: float
    probability: float


@dataclass(frozen=True, slots=True)
class PageState:
    """One page of the policy: its value under it, and the best action, None where nothing is best."""

    page: str
    value: float
    action: PageAction | None


@dataclass(frozen=True, slots=True)
class PageFigures:
    """What is known of one page or of one cluster of pages.

    Attributes:
        page: name; of a cluster its most visited page.
        cluster: number.
        visit_count, entry_count: views, and those of them that began a session.
        exit_rate: share of the views that were the session's last.
        bounce_rate: share of the sessions begun here that had no other page; None where none began.
        mean_seconds: on the page; None where never known.
        page_value: mean amount of orders from a view to the end of the session, as seen.
        value: the same as expected under the policy; of a cluster the mean over its views.
    """

    page: str
    cluster: int
    visit_count: int
    entry_count: int
    exit_rate: float
    bounce_rate: float | None
    mean_seconds: float | None
    page_value: float
    value: float


@dataclass(frozen=True, slots=True)
class PageCluster:
    """Pages that visitors go to and fro between: its figures, how many they are, and all, most visited first."""

    figures: PageFigures
    pages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PageEdge:
    """How often one page led to another, and the probability that it does."""

    from_page: str
    to_page: str
    count: int
    probability: float


def figures_of(
    graph: PageGraph, values: NDArray[np.float64], labels: NDArray[np.int64], codes: NDArray[np.int64]
) -> PageFigures:
    """Figures of some pages taken together, the most visited one first.

    Args:
        graph: of all pages.
        values: [S] of the states under the policy.
        labels: [S] clusters.
        codes: [n] the pages; of one cluster.
    """
    visits, entries = graph.visits[codes], int(graph.entries[codes].sum())
    count = max(int(visits.sum()), 1)
    timed = np.isfinite(graph.seconds[codes])
    weight = float(visits[timed].sum())
    return PageFigures(
        page=graph.pages[codes[0]],
        cluster=int(labels[codes[0]]),
        visit_count=int(visits.sum()),
        entry_count=entries,
        exit_rate=float(graph.exits[codes].sum()) / count,
        bounce_rate=float(graph.bounces[codes].sum()) / entries if entries else None,
        mean_seconds=float(graph.seconds[codes][timed] @ visits[timed]) / weight if weight else None,
        page_value=float(graph.worth[codes] @ visits) / count,
        value=float(values[codes] @ visits) / count,
    )
