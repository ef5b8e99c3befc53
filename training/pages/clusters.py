"""Clusters of pages that visitors go to and fro between: communities of the transition graph."""

from __future__ import annotations

from typing import Final

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from training.pages.graph import PageGraph

Ints = NDArray[np.int64]
MOST_EDGES: Final = 1_000_000
"""The heaviest edges decide; more of them take minutes and change little."""


def communities(graph: PageGraph, seed: int, resolution: float = 1.0, most_edges: int = MOST_EDGES) -> Ints:
    """[S] cluster of each page, numbered from 0 by visits; a page without neighbours is a cluster of its own.

    Louvain on the graph whose edge between two pages weighs the steps either way; steps from a page to itself count
    for nothing. It finds a local optimum of modularity, always the same for the same seed.

    Source: Blondel, Guillaume, Lambiotte and Lefebvre, "Fast unfolding of communities in large networks", 2008.

    Args:
        graph: of the pages.
        seed: of the order in which pages are moved.
        resolution: above 1 for more and smaller clusters, below for fewer and larger ones.
        most_edges: so many of the heaviest edges are looked at.
    """
    import networkx

    whole = networkx.Graph()
    whole.add_nodes_from(range(len(graph)))
    whole.add_weighted_edges_from(_edges(graph, most_edges))
    found = networkx.community.louvain_communities(whole, resolution=resolution, seed=seed)
    labels = np.zeros(len(graph), dtype=np.int64)
    for number, members in enumerate(found):
        labels[list(members)] = number
    return _by_visits(labels, graph.visits)


def modularity(graph: PageGraph, labels: Ints) -> float:
    """Share of the steps between pages that stay in their cluster, less what chance would keep there; below 1.

    Source: Newman and Girvan, Physical Review E 2004. NaN without any step from one page to another.
    """
    both = _symmetric(graph)
    total = float(both.sum())
    if not total:
        return float("nan")
    degrees = np.bincount(labels, np.asarray(both.sum(axis=1)).ravel())
    entries = both.tocoo()
    inside = float(entries.data[labels[entries.row] == labels[entries.col]].sum())
    return inside / total - float((degrees**2).sum()) / total**2


def _symmetric(graph: PageGraph) -> sparse.csr_matrix:
    """[S, S] steps either way between two pages, each pair twice; nothing on the diagonal."""
    both = (graph.steps + graph.steps.T).tocsr()
    both.setdiag(0)
    both.eliminate_zeros()
    return both


def _edges(graph: PageGraph, most: int) -> list[tuple[int, int, float]]:
    """Each pair of pages once, with its weight."""
    upper = sparse.triu(_symmetric(graph), k=1).tocoo()
    order = np.argsort(-upper.data, kind="stable")[:most]
    order = np.sort(order)
    columns = upper.row[order].tolist(), upper.col[order].tolist(), upper.data[order].astype(float).tolist()
    return list(zip(*columns, strict=True))


def _by_visits(labels: Ints, visits: Ints) -> Ints:
    """The same clusters, the most visited one first; of equal ones the one with the first page."""
    _, first, labels = np.unique(labels, return_index=True, return_inverse=True)
    order = np.lexsort((first, -np.bincount(labels, visits)))
    number = np.empty(len(order), dtype=np.int64)
    number[order] = np.arange(len(order))
    return number[labels]
