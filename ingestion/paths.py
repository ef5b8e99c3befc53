"""Where a source's files are: a file, a folder of files, or a folder of named tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from marquee.errors import SourceError

CSV_SUFFIXES: Final = (".csv", ".csv.gz")
JSON_SUFFIXES: Final = (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz", ".ndjson.gz")


def data_files(path: Path, suffixes: Sequence[str], subfolder: str = "", prefix: str = "") -> list[Path]:
    """The file itself, or a folder's files so named, in order (those of its ``subfolder`` where it has one).

    Raises:
        SourceError: there is no such path, or no such file in it.
    """
    expected = f"{prefix}*{' or *'.join(suffixes)}"
    if not _exists(path):
        raise SourceError(f"{path} does not exist; expected a file or a folder of files named {expected}")
    if path.is_file():
        return [path]
    folder = path / subfolder if subfolder and (path / subfolder).is_dir() else path
    files = [file for file in _list(folder) if file.name.lower().endswith(tuple(suffixes)) and file.is_file()]
    files = [file for file in files if file.name.startswith(prefix)]
    if not files:
        raise SourceError(f"{folder} holds no file named {expected}")
    return files


def table_file(folder: Path, *names: str) -> Path:
    """The CSV file, plain or gzipped, of the first of ``names`` that the folder has.

    Raises:
        SourceError: no such folder, no such file, or both a plain and a gzipped one.
    """
    if not _exists(folder):
        raise SourceError(f"{folder} does not exist; expected a folder with {names[0]}.csv")
    if not folder.is_dir():
        raise SourceError(f"{folder} is a file; expected the folder that holds {names[0]}.csv")
    for name in names:
        if file := find_table(folder, name):
            return file
    raise SourceError(f"{folder} lacks {' or '.join(names)} as {' or '.join(CSV_SUFFIXES)}")


def find_table(folder: Path, name: str) -> Path | None:
    """The folder's CSV file of that name, ``None`` when it has none; ``SourceError`` when it has two."""
    found = [file for suffix in CSV_SUFFIXES if _exists(file := folder / (name + suffix)) and file.is_file()]
    if len(found) > 1:
        raise SourceError(f"{folder} holds both {found[0].name} and {found[1].name}; keep one of them")
    return found[0] if found else None


def cannot_read(path: Path, error: OSError) -> SourceError:
    """The error to raise when the system refuses a path."""
    return SourceError(f"{path} cannot be read: {error.strerror or error}")


def _exists(path: Path) -> bool:
    """Whether there is such a path; ``SourceError`` when the system does not let us look."""
    try:
        return path.exists()
    except OSError as error:
        raise cannot_read(path, error) from error


def _list(folder: Path) -> list[Path]:
    """A folder's entries by name, hidden ones apart; ``SourceError`` when it cannot be listed."""
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise cannot_read(folder, error) from error
