"""Open text, plain or gzipped, so that whatever is wrong with it is said with file and line."""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from marquee.errors import SourceError


def is_gzip(path: Path) -> bool:
    """Whether the file begins as gzip does."""
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """The text of a file in UTF-8, with or without gzip, whatever it is called.

    Raises:
        SourceError: there is no such file, its gzip ends too early, or it is not UTF-8.
    """
    try:
        with path.open("rb") as raw:
            source = gzip.GzipFile(fileobj=raw) if is_gzip(path) else raw
            with io.TextIOWrapper(source, encoding="utf-8-sig") as text:
                yield text
    except FileNotFoundError:
        raise SourceError(f"there is no file {path}") from None
    except IsADirectoryError:
        raise SourceError(f"{path} is a folder; name one file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise SourceError(f"{path}: its gzip is cut off or damaged; fetch it again") from None
    except UnicodeDecodeError:
        line = _line_of_bad_byte(path)
        raise SourceError(f"{path} line {line}: not UTF-8; convert it, as with iconv -f latin1 -t utf-8") from None


def _line_of_bad_byte(path: Path) -> int:
    raw = path.read_bytes()
    data = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data.count(b"\n", 0, error.start) + 1
    return 1
