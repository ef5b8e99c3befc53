"""The page graph counted from paths is the one that the warehouse's page tables hold."""

from __future__ import annotations

import duckdb
import pytest

from marquee.settings import Settings
from training.pages.graph import PageGraph
from training.pages.reading import read_paths

pytestmark = pytest.mark.tools
PAGES = """
    select page, visit_count, entry_count, exit_count, bounce_count, mean_dwell_seconds, mean_value_amount
    from marts.pages
"""
STEPS = """
    select from_page, to_page, transition_count from marts.page_transitions
    where from_page <> '(entry)' and to_page <> '(exit)'
"""


def test_the_graph_equals_the_page_tables(installation: Settings) -> None:
    graph = PageGraph.of(read_paths(installation))
    code = {page: number for number, page in enumerate(graph.pages)}
    with duckdb.connect(str(installation.warehouse), read_only=True) as connection:
        pages, steps = connection.execute(PAGES).fetchall(), connection.execute(STEPS).fetchall()
    assert len(pages) == len(graph) > 100
    for page, *counts, seconds, worth in pages:
        at = code[page]
        assert counts == [column[at] for column in (graph.visits, graph.entries, graph.exits, graph.bounces)], page
        assert graph.worth[at] == pytest.approx(worth, abs=1e-6), page
        if seconds is not None:
            assert graph.seconds[at] == pytest.approx(seconds, abs=1e-5), page
    assert len(steps) == graph.steps.nnz > 1_000
    found = graph.steps.todok()
    assert all(found[code[before], code[after]] == count for before, after, count in steps)
