"""Requests that nobody should send: from the service's own OpenAPI document, and by hand; no 5xx for any of them."""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import hypothesis
import psutil
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given
from schemathesis import GenerationMode

from benchmarks.bad_requests import BAD, Bad
from benchmarks.measure import say
from benchmarks.service_process import Service, bench_settings, service
from benchmarks.serving_installation import PLACEMENT, build

REQUESTS: Final = 11_000
"""Asked of the generator, which makes some fewer: more than 10,000 are sent."""
PROBLEM: Final = "application/problem+json"
LORIS: Final = 50
LORIS_SECONDS: Final = 8.0
"""How long an unfinished request may stay: the service gives one up that does not end."""
VISITORS: Final = 5_000
EXAMPLES, LONGEST = 5, 300
ASKED: Final = {"visitor_id": "v000001", "placement": PLACEMENT, "n": 3}


def fuzz(work: Path, workers: int, count: int = REQUESTS, seed: int = 7) -> dict[str, Any]:
    """Send ``count`` generated requests, then those by hand, then unfinished ones.

    Returns:
        Plain JSON values: ``fuzz_5xx``, generated ones that got one or no answer; ``fuzz_no_problem``, those refused
        without a problem's body; ``fuzz_unnamed``, bad ones by hand not refused as they must be, with what is wrong in
        ``fuzz_wrong``; and by how much the workers' memory grew.
    """
    settings = bench_settings(work / "fuzz", workers)
    build(settings, 200, VISITORS)
    with service(settings) as ours:
        for _ in range(200):
            ours.ask("/v1/banners/recommend", ASKED)
        before = _resident(ours)
        statuses, failed, plain = _generated(ours, count, seed)
        wrong = [f"{name}: {why}" for name, bad in BAD.items() if (why := _refusal(ours, bad))]
        held = _loris(ours)
        time.sleep(1.0)
        grown = _resident(ours) - before
        answers = ours.ask("/v1/banners/recommend", ASKED)[0] == 200
    return {
        "fuzz_requests": sum(statuses.values()),
        "fuzz_statuses": {str(status): number for status, number in sorted(statuses.items())},
        "fuzz_5xx": len(failed),
        "fuzz_5xx_examples": failed[:EXAMPLES],
        "fuzz_no_problem": len(plain),
        "fuzz_no_problem_examples": plain[:EXAMPLES],
        "fuzz_by_hand": len(BAD),
        "fuzz_unnamed": len(wrong),
        "fuzz_wrong": wrong,
        "fuzz_resident_growth_mb": round(grown, 1),
        "fuzz_answers_afterwards": answers,
        **held,
    }


def _generated(ours: Service, count: int, seed: int) -> tuple[Counter[int], list[str], list[str]]:
    """Half of them fit the document and half do not, spread evenly over its operations."""
    operations = [found.ok() for found in _document(ours).get_all_operations()]
    statuses, failed, plain = Counter[int](), list[str](), list[str]()
    each = max(1, count // (2 * len(operations)))
    session = requests.Session()
    for number, operation in enumerate(operations):
        for mode in GenerationMode:
            # Some operations take nothing that could be wrong.
            with suppress(hypothesis.errors.Unsatisfiable, hypothesis.errors.InvalidArgument):
                _send_all(operation.as_strategy(mode), each, seed + number, _sender(session, statuses, failed, plain))
        say(f"  {operation.label}: {sum(statuses.values())} requests so far")
    return statuses, failed, plain


def _document(ours: Service) -> Any:
    """The service's own, without its keys: on this machine none is asked for, and a wrong one ends a request early."""
    document = requests.get(f"{ours.address}/v1/openapi.json", timeout=10).json()
    document.pop("security", None)
    document.get("components", {}).pop("securitySchemes", None)
    for operation in [one for path in document["paths"].values() for one in path.values() if isinstance(one, dict)]:
        operation.pop("security", None)
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=ours.address)
    return schema


def _sender(
    session: requests.Session, statuses: Counter[int], failed: list[str], plain: list[str]
) -> Callable[[Any], None]:
    def send(case: Any) -> None:
        try:
            answer = case.call(session=session, timeout=10)
        except (requests.RequestException, ValueError) as error:
            # A header or a path that the client itself cannot send says nothing about the service.
            if isinstance(error, requests.ConnectionError | requests.Timeout):
                statuses[0] += 1
                failed.append(f"{case.method} {case.path}: {error}"[:LONGEST])
            return
        statuses[answer.status_code] += 1
        told = f"{answer.status_code} {case.method} {case.formatted_path!r} {case.body!r}"[:LONGEST]
        if answer.status_code >= 500:
            failed.append(told)
        elif answer.status_code >= 400 and not answer.headers.get("content-type", [""])[0].startswith(PROBLEM):
            plain.append(told)

    return send


def _send_all(strategy: Any, most: int, seed: int, send: Callable[[Any], None]) -> None:
    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=most,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(case: Any) -> None:
        send(case)

    each()


def _refusal(ours: Service, bad: Bad) -> str:
    """What is wrong with how a bad request was refused; empty when nothing is."""
    address = urlsplit(ours.address)
    connection = HTTPConnection(address.hostname or "", address.port, timeout=10)
    try:
        headers = {"content-type": bad.media_type} if bad.media_type else {}
        connection.request(bad.method, bad.path, bad.body, headers)
        answer = connection.getresponse()
        told = answer.read().decode("utf-8", "replace")
    except OSError as error:
        # A body that is too large may be cut off before all of it was sent.
        return "" if bad.status == 413 else f"no answer: {error}"
    finally:
        connection.close()
    if answer.status != bad.status:
        return f"{answer.status} instead of {bad.status}: {told[:200]}"
    if not (answer.headers.get("content-type") or "").startswith(PROBLEM):
        return f"no problem: {answer.headers.get('content-type')}"
    fields = [error["field"] for error in json.loads(told).get("errors", [])]
    named = bad.field is None or any(bad.field in field for field in fields) or bad.field in json.loads(told)["detail"]
    return "" if named else f"{bad.field} is not named: {told[:200]}"


def _loris(ours: Service) -> dict[str, Any]:
    """Requests that never end, half in their head and half in their body: others are answered meanwhile."""
    address = urlsplit(ours.address)
    head = b"POST /v1/events HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n"
    open_ones = []
    for number in range(LORIS):
        one = socket.create_connection((address.hostname, address.port or 80), timeout=10)
        one.sendall(head + (b"Content-Length: 500\r\n\r\n[" if number % 2 else b""))
        open_ones.append(one)
    asked = [_timed(ours) for _ in range(20)]
    time.sleep(LORIS_SECONDS)
    given_up = sum(_has_answer(one) for one in open_ones[1::2])
    for one in open_ones:
        one.close()
    answered = [seconds for seconds in asked if seconds is not None]
    return {
        "loris_open": LORIS,
        "loris_others_answered": len(answered),
        "loris_others_max_ms": round(1e3 * max(answered, default=0.0), 1),
        "loris_bodies_given_up": given_up,
    }


def _timed(ours: Service) -> float | None:
    since = time.perf_counter()
    status, _ = ours.ask("/v1/banners/recommend", ASKED)
    return time.perf_counter() - since if status == 200 else None


def _has_answer(one: socket.socket) -> bool:
    one.settimeout(0.2)
    try:
        one.recv(100)
    except OSError as error:
        return isinstance(error, ConnectionError)
    return True


def _resident(ours: Service) -> float:
    held = 0.0
    for one in ours.workers():
        with suppress(psutil.NoSuchProcess):
            held += one.memory_info().rss / 1e6
    return held
