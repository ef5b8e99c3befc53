"""Say what is wrong with a table in one line: which file, which line, and what to do."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from marquee.errors import SourceError
from training.harness.columns import Layout
from training.harness.plain_text import opened

ADVICE = "times are numbers since 1970 or ISO text such as 2017-10-17T12:00:00, and weights are numbers"


def refuse(parts: list[Path], layout: Layout | None, column: str, row: int) -> None:
    """Say which value of a time or weight makes no sense.

    Args:
        parts: files of the table, in order.
        layout: how they look; None for Parquet.
        column: where the value is.
        row: its row over all parts, from 0, headers not counted.

    Raises:
        SourceError: always.
    """
    if layout is None:
        where = f"{parts[0]}" if len(parts) == 1 else f"{parts[0].parent}"
        raise SourceError(f"{where} row {row + 1}: no sensible value in column {column!r}; {ADVICE}")
    for part in parts:
        for line, fields in _rows(part, layout):
            if row == 0:
                value = fields[layout.names.index(column)]
                raise SourceError(f"{part} line {line}: {value!r} in column {column!r} is no such value; {ADVICE}")
            row -= 1
    raise SourceError(f"{parts[0]}: a value in column {column!r} makes no sense; {ADVICE}")


def _rows(path: Path, layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """Number of the last line, and fields, of each row behind the header."""
    with opened(path) as file:
        if len(layout.delimiter) == 1:
            reader = csv.reader(file, delimiter=layout.delimiter)
            found = ((reader.line_num, fields) for fields in reader if fields)
        else:
            lines = ((number, line.rstrip("\n")) for number, line in enumerate(file, 1))
            found = ((number, line.split(layout.delimiter)) for number, line in lines if line)
        if layout.header:
            next(found, None)
        yield from found


def explained(path: Path, error: Exception) -> str:
    """One line of what DuckDB says over many."""
    text = str(error)
    line = re.search(r"CSV Error on Line: (\d+)", text)
    file = re.search(r"^\s*file = (.+)$", text, re.MULTILINE)
    where = f"{file[1] if file else path}" + (f" line {line[1]}" if line else "")
    if "not utf-8" in text:
        return f"{where}: not UTF-8; convert it, as with iconv -f latin1 -t utf-8"
    if columns := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text):
        return f"{where}: {columns[2]} columns where there should be {columns[1]}; mend the line"
    if "unterminated quote" in text:
        return f"{where}: a quotation mark is never closed; mend the line"
    if "GZIP" in text.upper():
        return f"{where}: its gzip is cut off or damaged; fetch it again"
    return f"{where}: {text.strip().splitlines()[0]}; is it the file you mean, and whole?"
