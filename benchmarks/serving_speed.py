"""How fast slates and events are answered, beside a route that does nothing and beside what the tutorials write."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from pathlib import Path
from typing import Any, Final

from benchmarks.measure import say
from benchmarks.service_process import API, FLOOR, NAIVE, Service, answers, bench_settings, run_load, service
from benchmarks.serving_installation import build, event_bodies, recommend_bodies

FLOOR_ROUTE, GUARDED_ROUTE = "/floor/recommend", "/guarded/recommend"
CONNECTIONS: Final = 16
BODIES, REPORTS, EVENTS = 100_000, 2_000, 50
WARM_SECONDS: Final = 3.0
SHED: Final = frozenset({"overloaded", "too_late"})
Arms = dict[str, tuple[Service, Path, dict[str, Any]]]
"""By name: what answers, what it is asked, and options of the load."""
Rounds = dict[str, list[dict[str, Any]]]


def speed(work: Path, workers: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Slates over 200 banners: the floor, the product and the naive service in turn, round by round.

    ``guarded`` is the floor behind the product's own front, ``api`` a method of BentoML's that does nothing, in as many
    processes, and ``terse`` the product without reasons.

    Returns:
        Plain JSON values. Ratios are the median of the rounds' own; times are of ``CONNECTIONS`` closed connections
        and, as ``half_load``, of half the requests a second that the product answers, due at even moments.
    """
    settings = bench_settings(work / "speed", workers)
    build(settings, 200)
    bodies = recommend_bodies(work / "slates", BODIES)
    terse = recommend_bodies(work / "terse", BODIES, reasons=False)
    with service(settings, FLOOR) as ours, service(settings, API) as api, service(settings, NAIVE) as naive:
        arms: Arms = {
            "floor": (ours, bodies, {"path": FLOOR_ROUTE}),
            "guarded": (ours, bodies, {"path": GUARDED_ROUTE}),
            "api": (api, bodies, {"path": "/recommend"}),
            "ours": (ours, bodies, {}),
            "terse": (ours, terse, {}),
            "naive": (naive, bodies, {}),
        }
        found = _alternate(arms, seconds, rounds, connections=CONNECTIONS)
        half = statistics.median(_of(found, "ours", "per_second")) / 2
        steady = run_load(ours.address, bodies, seconds=seconds, rate=half, connections=4 * CONNECTIONS)
        told = _fallbacks(ours, bodies, work / "answers", seconds)
    return {
        "throughput_vs_floor": _ratio(found, "ours", "floor", "per_second"),
        "throughput_vs_guarded": _ratio(found, "ours", "guarded", "per_second"),
        "throughput_vs_naive": _ratio(found, "ours", "naive", "per_second"),
        "throughput_vs_api": _ratio(found, "ours", "api", "per_second"),
        "terse_vs_floor": _ratio(found, "terse", "floor", "per_second"),
        "terse_vs_naive": _ratio(found, "terse", "naive", "per_second"),
        "p99_vs_floor": _ratio(found, "ours", "floor", "p99_ms"),
        "p99_vs_api": _ratio(found, "ours", "api", "p99_ms"),
        **{f"{arm}_per_second": _median(found, arm, "per_second") for arm in arms},
        **{f"{arm}_p99_ms": _median(found, arm, "p99_ms") for arm in ("floor", "api", "terse", "naive")},
        "p50_ms": _median(found, "ours", "p50_ms"),
        "p99_ms": _median(found, "ours", "p99_ms"),
        "half_load_p50_ms": steady["p50_ms"],
        "half_load_p99_ms": steady["p99_ms"],
        "load_cpu_us": _median(found, "floor", "cpu_us"),
        **told,
        **_wrong(found, "speed"),
    }


def growth(work: Path, workers: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Median time of one slate at a time over 2,000 banners, over that with 200; in turn, round by round."""
    few, many = (bench_settings(work / f"growth-{banners}", workers) for banners in (200, 2_000))
    build(few, 200)
    build(many, 2_000)
    bodies = recommend_bodies(work / "slates", BODIES)
    with service(few) as first, service(many) as second:
        arms: Arms = {"200": (first, bodies, {}), "2000": (second, bodies, {})}
        found = _alternate(arms, seconds, rounds, connections=1)
    return {
        "growth_200_to_2000": _ratio(found, "2000", "200", "p50_ms"),
        "alone_200_p50_ms": _median(found, "200", "p50_ms"),
        "alone_2000_p50_ms": _median(found, "2000", "p50_ms"),
        **_wrong(found, "growth"),
    }


def events(work: Path, workers: int, seconds: float, rounds: int) -> dict[str, Any]:
    """Reports of 50 events, durable before their answer, over requests that send the same bodies to the floors."""
    settings = bench_settings(work / "events", workers)
    build(settings, 200)
    bodies = event_bodies(work / "reports", REPORTS, EVENTS, "speed")
    with service(settings, FLOOR) as ours, service(settings, API) as api:
        arms: Arms = {
            "floor": (ours, bodies, {"path": FLOOR_ROUTE}),
            "guarded": (ours, bodies, {"path": GUARDED_ROUTE}),
            "api": (api, bodies, {"path": "/report"}),
            "ours": (ours, bodies, {}),
        }
        found = _alternate(arms, seconds, rounds, connections=CONNECTIONS)
    return {
        "events_per_s_vs_floor": _ratio(found, "ours", "floor", "per_second"),
        "events_per_s_vs_guarded": _ratio(found, "ours", "guarded", "per_second"),
        "events_per_s_vs_api": _ratio(found, "ours", "api", "per_second"),
        "events_per_second": round(EVENTS * _median(found, "ours", "per_second")),
        "reports_p99_ms": _median(found, "ours", "p99_ms"),
        **_wrong(found, "events"),
    }


def _alternate(arms: Arms, seconds: float, rounds: int, connections: int) -> Rounds:
    """Each arm in turn, ``rounds`` times, after a load of each that does not count."""
    for one, bodies, options in arms.values():
        run_load(one.address, bodies, seconds=WARM_SECONDS, connections=connections, **options)
    found: Rounds = {name: [] for name in arms}
    for number in range(rounds):
        for name, (one, bodies, options) in arms.items():
            found[name].append(run_load(one.address, bodies, seconds=seconds, connections=connections, **options))
        told = {name: (made[-1]["per_second"], made[-1]["p50_ms"], made[-1]["p99_ms"]) for name, made in found.items()}
        say(f"  round {number + 1}, per second, p50 and p99 in ms: {told}")
    return found


def _fallbacks(ours: Service, bodies: Path, file: Path, seconds: float) -> dict[str, Any]:
    """Of one more load at full speed: how many answers of which fallback, and the share that was shed."""
    run_load(ours.address, bodies, seconds=seconds, connections=CONNECTIONS, answers=file)
    named: Counter[str] = Counter()
    for _, _, status, body in answers(file):
        named[str(json.loads(body)["fallback"]) if status == 200 else str(status)] += 1
    shed = sum(count for name, count in named.items() if name in SHED or name.startswith("5"))
    return {"fallbacks": dict(named), "shed_share": round(shed / max(sum(named.values()), 1), 4)}


def _of(found: Rounds, arm: str, figure: str) -> list[float]:
    return [one[figure] for one in found[arm]]


def _median(found: Rounds, arm: str, figure: str) -> float:
    return round(statistics.median(_of(found, arm, figure)), 3)


def _ratio(found: Rounds, above: str, below: str, figure: str) -> float:
    pairs = zip(_of(found, above, figure), _of(found, below, figure), strict=True)
    return round(statistics.median(one / other for one, other in pairs), 3)


def _wrong(found: Rounds, part: str) -> dict[str, int]:
    """Requests of all rounds that got another answer than one in the two hundreds, or none."""
    made = [one for arm in found.values() for one in arm]
    bad = sum(n for one in made for status, n in one["statuses"].items() if not status.startswith("2"))
    return {f"{part}_failed": bad + sum(n for one in made for n in one["errors"].values())}
