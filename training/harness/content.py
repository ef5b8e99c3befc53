"""Read what items are, or who users are: a table with a row each, as features for models."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sparse
from numpy.typing import NDArray

from marquee.errors import SourceError
from training.harness.coding import MISSING
from training.harness.columns import Layout, find_column, need_column, plain
from training.harness.reading import Reading, parts_of
from training.harness.table_errors import explained
from training.harness.tables import layout_of, open_table

MOST_VALUES = 1_000
"""Values of a column that become features, the most frequent ones."""
NUMBERS = 20
"""A column of numbers with more different ones is a quantity rather than a category."""
CODES = ("id", "code", "category", "brand", "class", "type", "zip")
"""Endings of the names of columns whose numbers are categories all the same."""


@dataclass(frozen=True, slots=True)
class Content:
    """Features of things.

    Attributes:
        ids: [n] sorted names of the things.
        matrix: [n, F] CSR matrix.
        names: [F] what each feature is, as ``category=shoes`` or ``price``.
    """

    ids: NDArray[np.str_]
    matrix: sparse.csr_matrix
    names: tuple[str, ...]

    def rows(self, ids: NDArray[np.str_]) -> sparse.csr_matrix:
        """[len(ids), F] features of things by name; zeros for one without any."""
        place = np.minimum(np.searchsorted(self.ids, ids), len(self.ids) - 1)
        known = self.ids[place] == ids
        chosen = sparse.csr_matrix(
            (np.ones(int(known.sum()), np.float32), (np.flatnonzero(known), place[known])),
            shape=(len(ids), len(self.ids)),
        )
        return sparse.csr_matrix(chosen @ self.matrix, dtype=np.float32)


def read_content(path: Path, column: str, usual: tuple[str, ...]) -> Content:
    """Every column but the name's as features.

    Quantities are brought to mean 0 and variance 1, missing ones to 0: numbers with more than 20 different ones, in a
    column whose name does not end like ``id``. All else is one feature a value, several values being parted by ``|``;
    values that only one thing has are left out.

    Args:
        path: a delimited text or Parquet file with a row a thing; of a thing with two the first counts.
        column: the name's; where there is none of that name it is found, or the first where there is no header.
        usual: names that the column may have.

    Raises:
        SourceError: it cannot be read, or has no such column.
    """
    import duckdb

    parts = parts_of(path)
    layout = layout_of(parts, Reading(item=column))
    if layout is not None and not layout.header:
        layout = Layout(layout.delimiter, False, tuple(map(str, range(len(layout.names)))))
        column = "0"
    with closing(duckdb.connect(config={"threads": 2})) as connection:
        try:
            table = open_table(connection, parts, layout)
            names = tuple(table.columns)
            key = need_column(
                path, names, find_column(path, names, column if column in names else "", usual, "name"), "name"
            )
            texts = table.select(*(duckdb.ColumnExpression(name).cast("VARCHAR").alias(name) for name in names))
            columns = {
                name: [_text(value) for value in values] for name, values in texts.to_arrow_table().to_pydict().items()
            }
        except duckdb.Error as error:
            raise SourceError(explained(path, error)) from None
    ids, first = np.unique(np.array(columns.pop(key), dtype=np.str_), return_index=True)
    named = ids != ""
    ids, first = ids[named], first[named]
    if not len(ids):
        raise SourceError(f"{path} has no row; it should hold a row for each thing")
    made = [_features(name, [values[row] for row in first]) for name, values in columns.items()]
    matrix = sparse.hstack([part for part, _ in made] or [sparse.csr_matrix((len(ids), 0))], format="csr")
    return Content(ids, sparse.csr_matrix(matrix, dtype=np.float32), tuple(name for _, names in made for name in names))


def _features(column: str, values: list[str]) -> tuple[sparse.csr_matrix, list[str]]:
    """[n, ·] features of one column, and their names."""
    numbers = None if plain(column).endswith(CODES) else _numbers(values)
    if numbers is not None and len(np.unique(numbers)) > NUMBERS:
        spread = np.nanstd(numbers)
        scaled = np.nan_to_num((numbers - np.nanmean(numbers)) / (spread if spread else 1.0))
        return sparse.csr_matrix(scaled[:, None]), [column]
    split = [sorted({part for part in value.split("|") if part}) for value in values]
    counts = Counter(part for parts in split for part in parts)
    kept = sorted(sorted(counts, key=lambda part: (-counts[part], part))[:MOST_VALUES])
    kept = [part for part in kept if counts[part] > 1]
    place = {part: number for number, part in enumerate(kept)}
    cells = [(row, place[part]) for row, parts in enumerate(split) for part in parts if part in place]
    rows, columns = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    shape = (len(values), len(kept))
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape), [f"{column}={part}" for part in kept]


def _numbers(values: list[str]) -> NDArray[np.float64] | None:
    """The column's numbers, NaN where one is missing; None where there is something else."""
    try:
        return np.array([float(value) if value else np.nan for value in values])
    except ValueError:
        return None


def _text(value: str | None) -> str:
    return "" if value is None or value in MISSING else value
