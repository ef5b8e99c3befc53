"""The stream's writer: many appends share a write, too many are refused, and an error is over when the disk says so."""

from __future__ import annotations

import json
import resource
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from ingestion import group_commit
from ingestion.event_stream import EventStream
from marquee.errors import MarqueeError, TryAgain


def view(number: int) -> dict[str, Any]:
    return {"event_id": f"e{number}", "kind": "page_view", "page": "/" + "x" * 100}


def stored(file: Path) -> list[str]:
    return [json.loads(line)["event_id"] for line in file.read_bytes().splitlines()]


def test_a_stream_without_events_notices_that_the_disk_takes_them_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_commit, "AGAIN_SECONDS", 0.05)
    stream = EventStream(tmp_path, "w0")
    stream.append([view(1)])
    before = stream.file.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(MarqueeError, match="were not stored"):
            stream.append([view(2)])
        time.sleep(0.2)
        assert stream.error is not None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    limit = time.monotonic() + 5
    while stream.error is not None:
        assert time.monotonic() < limit
        time.sleep(0.02)
    stream.append([view(3)])
    stream.close()
    assert stream.file.read_bytes().startswith(before)
    assert stored(stream.file) == ["e1", "e3"], "a trial leaves nothing behind"


def test_appends_that_wait_share_one_write_and_too_many_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = EventStream(tmp_path, "w0")
    writes: list[int] = []
    begun, may_write, write = threading.Event(), threading.Event(), stream._write

    def slow(data: bytes, is_kept: bool = True) -> None:
        begun.set()
        may_write.wait(10)
        writes.append(len(data))
        write(data, is_kept)

    monkeypatch.setattr(stream, "_write", slow)
    waiting = [stream.append_soon([b'{"event_id": "e0"}\n'])]
    assert begun.wait(10)
    waiting += [stream.append_soon([b'{"event_id": "e%d"}\n' % n]) for n in range(1, 500)]
    monkeypatch.setattr(group_commit, "MOST_WAITING_BYTES", 1000)
    with pytest.raises(TryAgain, match="wait for the disk"):
        stream.append_soon([b"{}\n"])
    assert not any(one.done() for one in waiting)
    may_write.set()
    for one in waiting:
        one.result(10)
    stream.close()
    assert len(writes) <= 2
    assert stored(stream.file) == [f"e{n}" for n in range(500)]
