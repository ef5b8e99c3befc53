"""Decisions: the shop's rules hold in every slate, and a logged decision is made again bit for bit."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from features.matrix import BANNER_COUNTS, VISITOR_NUMBERS, Encoding
from features.products import Products
from ingestion.catalogue_store import Managed
from ingestion.event_stream import parse_event
from marquee import contract
from marquee.catalogue import Banner, Campaign, Cap, Placement
from serving.decision import Board, Inputs, decide, decide_quickly
from serving.decision_log import board_to_json, inputs_from_json, inputs_to_json
from serving.impressions import impression_lines
from serving.live_catalogue import merge
from serving.rule import Ask, Rule
from serving.showings import Shows, Spent
from training.bundle import Bundle, Context
from training.calibration import Platt
from training.catalogue import Catalogue
from training.ranker import Ranker
from training.towers import Towers, banner_inputs, visitor_inputs

NOON = datetime(2026, 2, 1, 12)
FEATURES = list(contract.RANKER_FEATURES)
B = 12


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    """Twelve banners in four campaigns, and trees that have learned something of every feature."""
    import xgboost as xgb

    rng = np.random.default_rng(2)
    matrix = rng.random((3_000, len(FEATURES))).astype(np.float32)
    label = rng.random(3_000) < 0.1 + 0.5 * matrix[:, FEATURES.index("affinity_match")]
    data = xgb.DMatrix(matrix, label=label, feature_names=FEATURES)
    booster = xgb.train({"objective": "binary:logistic", "max_depth": 3, "nthread": 1}, data, 20)
    rows = [
        {
            "banner_id": f"b{number:02d}",
            "campaign_id": f"c{number % 4}",
            "title": f"Banner {number}",
            "starts_at": (NOON - timedelta(days=1)).isoformat(),
            "ends_at": (NOON + timedelta(days=1)).isoformat(),
            "status": "active",
            "placements": "[]",
            "product_count": number + 1,
            "mean_price": 10.0 * number,
            "category_mix": json.dumps({"bags": 0.6, "boots": 0.4} if number % 2 else {"tents": 1.0}),
        }
        for number in range(B)
    ]
    categories = ("bags", "boots", "tents")
    manifest = {
        "encoding": Encoding(categories, ("home", "cart"), contract.DEVICES, 0.05).to_dict(),
        "catalogue": rows,
        "category_titles": {},
        "banners_seen": [row["banner_id"] for row in rows],
        "policy": {"name": "epsilon-greedy", "exploration": 0.2, "candidates": 8},
    }
    shares = np.zeros((1, 3), np.float32)
    visitor_size = visitor_inputs(shares, np.zeros((1, 4))).shape[1]
    banner_size = banner_inputs(shares, np.zeros(1), np.zeros(1)).shape[1]

    def some(*shape: int) -> Any:
        return rng.normal(size=shape).astype(np.float32)

    towers = Towers(
        *(some(visitor_size, 4), some(4), some(4, 4), some(4)),
        *(some(B + 1, 2), some(2 + banner_size, 4), some(4), some(4, 4), some(4)),
    )
    return Bundle(manifest, towers, Ranker(booster, Platt(1.0, 0.0)), {})


def board(bundle: Bundle, **campaigns: dict[str, Any]) -> Board:
    """The bundle over its own catalogue, with these campaigns managed: their fields by id."""
    own = {
        name: Campaign(
            campaign_id=name,
            **{"starts_at": NOON - timedelta(days=1), "ends_at": NOON + timedelta(days=1)} | fields,
        )
        for name, fields in campaigns.items()
    }
    managed = Managed(version=1, records={**Managed().records, "campaigns": own})
    live = merge(bundle.catalogue, managed, Products())
    counts = {name: np.arange(B) * (10.0 if name == BANNER_COUNTS[0] else 1.0) for name in BANNER_COUNTS}
    return Board("banner_bundle:0123", bundle.with_catalogue(live.catalogue), live, counts)


def visitor(**shares: float) -> dict[str, Any]:
    counts = dict.fromkeys(VISITOR_NUMBERS, 3.0)
    return counts | {"category_affinity": json.dumps(shares), "last_seen_at": NOON - timedelta(hours=30)}


def inputs(request_id: str = "r1", n: int = 4, who: dict[str, Any] | None = None, **other: Any) -> Inputs:
    ask = Ask("home", "mobile", "/", None, frozenset(), NOON, "v1", "s1")
    context = Context("home", "mobile", np.datetime64(NOON, "us"))
    return Inputs(request_id, context, n, who, ask, Shows.none(), Spent.none(), **other)


def ids(made: Board, slate: Any) -> list[str]:
    return [made.bundle.catalogue.banner_ids[placed.row] for placed in slate]


def test_what_a_rule_forbids_is_not_shown_and_says_which(bundle: Bundle) -> None:
    made = board(bundle, c0={"status": "paused"}, c1={"budget": 5}, c2={"caps": (Cap(most=1),)})
    seen = Shows(("b02",), ("c2",), (int(NOON.timestamp() * 1e6) - 10**12,), ("s0",))
    asked = replace(inputs(n=12), shows=seen, spent=Spent({"c1": 5}))
    decision = decide(made, asked)
    assert {banner[-2:] for banner in ids(made, decision.slate)} <= {"03", "07", "11", "02", "06", "10"}
    codes = dict(zip(made.bundle.catalogue.banner_ids, decision.codes.tolist(), strict=True))
    assert codes["b00"] == Rule.CAMPAIGN_PAUSED
    assert codes["b01"] == Rule.BUDGET_SPENT
    assert codes["b03"] == 0


def test_priorities_fill_first_whatever_retrieval_would_rather_hand_on(bundle: Bundle) -> None:
    made = board(bundle, c3={"priority": 5})
    for number in range(40):
        slate = ids(made, decide(made, inputs(f"r{number}", 5, visitor(tents=1.0))).slate)
        assert {"b03", "b07", "b11"} == set(slate[:3])


def test_one_of_a_kind_and_what_stands_elsewhere_stays_away(bundle: Bundle) -> None:
    made = board(bundle, c0={"competes_in": "shoes"}, c1={"competes_in": "shoes"})
    for number in range(40):
        slate = ids(made, decide(made, inputs(f"r{number}", 12, elsewhere=("b02", "gone"), taken=("b03",))).slate)
        assert sum(made.live.banners[banner].campaign_id in ("c0", "c1") for banner in slate) == 1
        assert not {"b02", "b03"} & set(slate)


def test_a_house_banner_is_needed_once_the_rest_stands_elsewhere(bundle: Bundle) -> None:
    made = board(bundle, c0={"is_house": True}, c1={"status": "paused"}, c2={"status": "paused"})
    assert set(ids(made, decide(made, inputs(n=12)).slate)) == {"b03", "b07", "b11"}
    left = decide(made, inputs(n=12, elsewhere=("b03", "b07", "b11")))
    assert set(ids(made, left.slate)) == {"b00", "b04", "b08"}


def test_a_placement_holds_no_more_than_its_slots(bundle: Bundle) -> None:
    plain = board(bundle)
    live = replace(plain.live, placements={"home": Placement(placement_id="home", slots=2)})
    made = Board(plain.tag, plain.bundle, live, plain.counts)
    assert len(decide(made, inputs(n=5)).slate) == 2
    assert len(decide_quickly(made, inputs().ask, 5, Spent.none())) == 2


def test_the_quick_answer_is_the_most_clicked_of_what_anybody_may_see(bundle: Bundle) -> None:
    made = board(bundle, c3={"budget": 100}, c2={"caps": (Cap(most=3),)}, c1={"status": "paused"})
    made.by_popularity = np.arange(B)[::-1]
    slate = decide_quickly(made, inputs().ask, 2, Spent.none())
    assert ids(made, slate) == ["b08", "b04"], "capped and paid banners need counting, which takes time"
    assert [(placed.position, placed.propensity) for placed in slate] == [(0, 1.0), (1, 1.0)]
    assert (
        decide_quickly(board(bundle, **{f"c{k}": {"status": "paused"} for k in range(4)}), inputs().ask, 2, Spent())
        == []
    )


def test_what_stands_elsewhere_is_in_no_quick_answer_either(bundle: Bundle) -> None:
    made = board(bundle)
    first = ids(made, decide_quickly(made, inputs().ask, 3, Spent.none()))
    assert not set(first) & set(ids(made, decide_quickly(made, inputs().ask, 3, Spent.none(), tuple(first))))


def test_what_was_dropped_at_last_is_dropped_when_made_again(bundle: Bundle) -> None:
    made = board(bundle)
    decision = decide(made, inputs(n=4))
    lost = ids(made, decision.slate)[1]
    left = decide(made, replace(inputs(n=4), dropped=(lost, "gone")))
    assert ids(made, left.slate) == ids(made, decision.without(frozenset({1})).slate)
    assert lost not in ids(made, left.slate)


def test_a_decision_without_some_moves_the_rest_up(bundle: Bundle) -> None:
    made = board(bundle)
    decision = decide(made, inputs(n=4))
    left = decision.without(frozenset({1}))
    assert [placed.position for placed in left.slate] == [0, 1, 2]
    assert [placed.row for placed in left.slate] == [decision.slate[place].row for place in (0, 2, 3)]


moments = st.datetimes(NOON - timedelta(days=3), NOON + timedelta(days=3))
sessions = st.none() | st.fixed_dictionaries(
    {
        "session_started_at": moments,
        "feature_at": moments,
        "session_view_count": st.integers(0, 9),
        "session_cart_count": st.integers(0, 9),
        "session_order_count": st.integers(0, 2),
        "session_product_count": st.integers(0, 10),
        "last_category": st.none() | st.sampled_from(["bags", "tents"]),
        "category_interest": st.dictionaries(st.sampled_from(["bags", "boots"]), st.floats(0, 50)),
    }
)
people = st.none() | st.builds(
    lambda bags, seen: visitor(bags=bags) | {"last_seen_at": seen}, st.floats(0, 1), st.none() | moments
)


@effort(deadline=None)
@given(st.text(min_size=1, max_size=8), st.integers(1, 12), people, sessions, st.sets(st.sampled_from(["b01", "b04"])))
def test_a_logged_decision_is_made_again_bit_for_bit(
    bundle: Bundle, request_id: str, n: int, who: Any, session: Any, taken: set[str]
) -> None:
    from serving.explanation import _restored

    made = board(bundle, c1={"competes_in": "x", "caps": (Cap(most=9, scope="session"),)}, c2={"competes_in": "x"})
    context = Context("home", "mobile", np.datetime64(NOON, "us"), session)
    asked = replace(inputs(request_id, n, who, taken=tuple(sorted(taken))), context=context)
    first = decide(made, asked)
    told, state = msgspec.json.decode(msgspec.json.encode([inputs_to_json(asked), board_to_json(made)]))
    again = decide(_restored(made.tag, bundle, state), inputs_from_json(told))
    assert np.array_equal(first.codes, again.codes)
    for one, other in zip(first.slate, again.slate, strict=True):
        assert (one.row, one.score, one.propensity, one.reasons) == (
            *(other.row, other.score, other.propensity, other.reasons),
        )
        assert np.array_equal(one.features, other.features, equal_nan=True)


def test_lines_hold_what_the_loader_takes(bundle: Bundle) -> None:
    made = board(bundle)
    decision = decide(made, inputs('r"1', 3))
    common = {"request_id": 'r"1', "occurred_at": NOON, "visitor_id": "v\u00e9", "placement_id": "home", "page": None}
    lines = impression_lines(decision.slate, common, made.bundle.catalogue.banner_ids, {"session_at": None})
    assert len(lines) == 3
    for line, placed in zip(lines, decision.slate, strict=True):
        assert line.endswith(b"\n")
        row = parse_event(line)
        assert (row["event_id"], row["visitor_id"], row["occurred_at"]) == (f'r"1-{placed.position}', "v\u00e9", NOON)
        assert row["propensity"] == placed.propensity
        told = json.loads(row["features"])
        assert told.pop("as_of") == {"session_at": None}
        values = np.array([np.nan if value is None else value for value in told.values()], dtype=np.float32)
        assert list(told) == FEATURES
        assert np.array_equal(values, placed.features, equal_nan=True)


def test_a_quick_answers_lines_say_that_no_features_were_used(bundle: Bundle) -> None:
    made = board(bundle)
    slate = decide_quickly(made, inputs().ask, 1, Spent.none())
    common = {"request_id": "r", "occurred_at": NOON, "visitor_id": "v", "placement_id": "home"}
    (line,) = impression_lines(slate, common, made.bundle.catalogue.banner_ids, {})
    assert parse_event(line).get("features") is None


def test_banners_of_no_catalogue_are_no_error(bundle: Bundle) -> None:
    live = merge(Catalogue.from_rows([]), Managed(), Products())
    made = Board("t", bundle.with_catalogue(live.catalogue), live)
    assert decide(made, inputs()).slate == []
    assert decide_quickly(made, inputs().ask, 3, Spent.none()) == []


def test_a_new_banner_is_shown_however_far_its_tower_puts_it(bundle: Bundle) -> None:
    """Retrieval hands on 8 of 13; the boost of new banners must reach one that it would never hand on."""
    new = Banner(banner_id="new", campaign_id="c0", title="New", landing_category_id="tents")
    managed = Managed(version=1, records={**Managed().records, "banners": {"new": new}})
    live = merge(bundle.catalogue, managed, Products())
    counts = {name: np.append(np.full(B, 5_000.0), np.nan) for name in BANNER_COUNTS}
    own = bundle.with_catalogue(live.catalogue)
    own.banner_vectors = own.banner_vectors.copy()
    nearest = int(own.retrieve(None, np.arange(B + 1) < B)[0])
    own.banner_vectors[-1] = -100.0 * own.banner_vectors[nearest]
    assert own.retrieve(None, np.ones(B + 1, dtype=bool), None).tolist()[-1] != B
    shown = {}
    for boost in (0.0, 0.15):
        own.boost = (boost, 1_000.0)
        made = Board("t", own, live, counts)
        slates = [ids(made, decide(made, inputs(f"r{number}", 6)).slate) for number in range(60)]
        shown[boost] = sum("new" in slate for slate in slates)
        assert all(len(set(slate)) == 6 for slate in slates)
    assert shown[0.0] == 0
    assert shown[0.15] > 5
