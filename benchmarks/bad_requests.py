"""Bad requests made by hand, each with the status it must get and the field that the answer must name."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.serving_installation import PLACEMENT

RECOMMEND, EVENTS = "/v1/banners/recommend", "/v1/events"
JSON: Final = "application/json"
SLATE: Final = {"visitor_id": "v000001", "placement": PLACEMENT, "n": 3}
EVENT: Final = {"event_id": "bad", "kind": "page_view", "occurred_at": "2026-01-01T00:00:00Z", "visitor_id": "v"}
CAMPAIGN: Final = {"campaign_id": "k", "starts_at": "2026-01-01T00:00:00Z", "ends_at": "2026-02-01T00:00:00Z"}
BANNER: Final = {"banner_id": "b", "campaign_id": "k00"}


@dataclass(frozen=True, slots=True)
class Bad:
    """One request that must be refused; ``field`` is None where no field is to blame."""

    path: str
    body: bytes
    status: int = 400
    field: str | None = None
    media_type: str = JSON
    method: str = "POST"


def _slate(field: str, **other: Any) -> Bad:
    return Bad(RECOMMEND, json.dumps(SLATE | other).encode(), field=field)


def _event(field: str, **other: Any) -> Bad:
    return Bad(EVENTS, json.dumps(EVENT | other).encode(), field=field)


def _campaign(field: str, **other: Any) -> Bad:
    return Bad("/v1/campaigns/k", json.dumps(CAMPAIGN | other).encode(), field=field, method="PUT")


def _banner(field: str, **other: Any) -> Bad:
    return Bad("/v1/banners/b", json.dumps(BANNER | other).encode(), field=field, method="PUT")


def _text(path: str, body: str | bytes, status: int = 400, field: str | None = None, media_type: str = JSON) -> Bad:
    return Bad(path, body if isinstance(body, bytes) else body.encode(), status, field, media_type)


_BODIES: Final[dict[str, str | bytes]] = {
    "nothing": b"",
    "broken": '{"visitor_id": "v", ',
    "null": "null",
    "a word": '"hello"',
    "a number": "7",
    "deep lists": "[" * 100_000 + "]" * 100_000,
    "deep objects": '{"context":' * 50_000 + "1" + "}" * 50_000,
    "invalid UTF-8": b'{"visitor_id": "\xff\xfe", "placement": "p"}',
    "half a character": '{"visitor_id": "\\ud800", "placement": "p"}',
    "a null byte": b'{"visitor_id": "v"\x00, "placement": "p"}',
    "UTF-16": json.dumps(SLATE).encode("utf-16"),
}
BAD: Final[dict[str, Bad]] = {
    **{f"{name}, slate": _text(RECOMMEND, body) for name, body in _BODIES.items()},
    **{f"{name}, event": _text(EVENTS, body) for name, body in _BODIES.items()},
    "10 MB, slate": _text(RECOMMEND, b'{"visitor_id": "' + b"v" * 10_000_000 + b'"}', 413),
    "10 MB, event": _text(EVENTS, b"[" + b" " * 10_000_000 + b"]", 413),
    "a duplicate key, slate": _text(RECOMMEND, json.dumps(SLATE)[:-1] + ', "n": 4}', field="n"),
    "a duplicate key, event": _text(EVENTS, json.dumps(EVENT)[:-1] + ', "kind": "other"}', field="kind"),
    "form": _text(RECOMMEND, "visitor_id=v", 415, media_type="application/x-www-form-urlencoded"),
    "text": _text(EVENTS, json.dumps(EVENT), 415, media_type="text/plain"),
    "no type": _text(EVENTS, json.dumps(EVENT), 415, media_type=""),
    "n not a number": _text(RECOMMEND, json.dumps(SLATE).replace("3}", "NaN}"), field="n"),
    "n without end": _text(RECOMMEND, json.dumps(SLATE).replace("3}", "1" * 5_000 + "}"), field="n"),
    "n huge": _slate("n", n=10**30),
    "n below": _slate("n", n=0),
    "n above": _slate("n", n=51),
    "n in words": _slate("n", n="many"),
    "visitor long": _slate("visitor_id", visitor_id="v" * 201),
    "visitor a number": _slate("visitor_id", visitor_id=7),
    "placement a list": _slate("placement", placement=["home"]),
    "unknown field": _slate("colour", colour="red"),
    "unknown device": _slate("device", context={"device": "fridge"}),
    "context a list": _slate("context", context=[]),
    "country long": _slate("country", context={"country": "Narnia" * 50}),
    "event, unknown kind": _event("kind", kind="dance"),
    "event, click on nothing": _event("banner_id", kind="click"),
    "event, no time": _event("occurred_at", occurred_at="yesterday"),
    "event, long ago": _event("occurred_at", occurred_at="0001-01-01T00:00:00+14:00"),
    "event, far ahead": _event("occurred_at", occurred_at="9999-12-31T23:59:59-14:00"),
    "event, amount without end": _text(EVENTS, json.dumps(EVENT)[:-1] + ', "amount": 1e999}', field="amount"),
    "event, amount not a number": _text(EVENTS, json.dumps(EVENT)[:-1] + ', "amount": NaN}', field="amount"),
    "event, position huge": _event("position", position=2**63),
    "event, propensity of nothing": _event("propensity", propensity=0),
    "event, unknown field": _event("colour", colour="red"),
    "event in a list": Bad(EVENTS, json.dumps([EVENT | {"kind": "dance"}]).encode(), field="kind"),
    "events without end": Bad(EVENTS, json.dumps([{}] * 50_000).encode(), field="events"),
    "campaign, ends first": _campaign("ends_at", ends_at="2025-01-01T00:00:00Z"),
    "campaign, no such zone": _campaign("time_zone", time_zone="Europe/Atlantis"),
    "campaign, cap of nothing": _campaign("most", caps=[{"most": 0}]),
    "campaign, hours without end": _campaign("hours", caps=[{"most": 1, "hours": 1e30}]),
    "campaign, weekday 7": _campaign("weekdays", hours=[{"weekdays": [7]}]),
    "campaign, budget below 0": _campaign("budget", budget=-1),
    "campaign, unknown field": _campaign("colour", colour="red"),
    "banner, script as URL": _banner("landing_url", landing_url="javascript:alert(1)"),
    "banner, too many products": _banner("product_ids", product_ids=[f"p{number}" for number in range(1_001)]),
    "banner, no such campaign": _banner("campaign_id", campaign_id="nowhere"),
    "no such page": _text("/v1/nowhere", "{}", 404),
    "another method": Bad(RECOMMEND, b"", 405, method="PUT"),
}
