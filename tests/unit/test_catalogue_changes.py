"""The managed catalogue against a plain dict: any changes in any order, what may not be changed, and what is kept."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.catalogue_store import (
    CatalogueRefused,
    Change,
    Records,
    SqliteCatalogue,
    StillInUse,
    UnknownReference,
    VersionConflict,
)
from marquee.catalogue import KINDS, Banner, Campaign, Placement, Product, Record
from marquee.settings import Settings


def campaign(key: str = "c1", **fields: Any) -> Campaign:
    told = {"campaign_id": key, "starts_at": "2026-01-01T00:00:00", "ends_at": "2026-02-01T00:00:00"} | fields
    return Campaign.model_validate(told)


def banner(key: str = "b1", campaign_id: str = "c1", **fields: Any) -> Banner:
    return Banner.model_validate({"banner_id": key, "campaign_id": campaign_id} | fields)


def put(record: Record, expected: int | None = None) -> Change:
    kind = next(kind for kind, model in KINDS.items() if isinstance(record, model))
    return Change(kind, getattr(record, f"{kind[:-1]}_id"), record, expected)


KNOWN: Records = {
    "campaigns": {"w1": campaign("w1")},
    "banners": {"wb": banner("wb", "w1", placements=["hero"])},
    "placements": {"hero": Placement(placement_id="hero")},
}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteCatalogue]:
    store = SqliteCatalogue(Settings(home=tmp_path / "home"))
    yield store
    store.close()


ids = st.sampled_from(["a", "b", "c"])
records = st.one_of(
    st.builds(lambda key, title: campaign(key, title=title), ids, st.text(max_size=5)),
    st.builds(lambda key, of, title: banner(key, of, title=title), ids, ids, st.text(max_size=5)),
    st.builds(lambda key, price: Product(product_id=key, price=price), ids, st.floats(0, 9)),
)
changes = st.one_of(
    st.builds(put, records), st.builds(Change, st.sampled_from(["campaigns", "banners", "products"]), ids, st.none())
)


def expected_of(model: dict[tuple[str, str], Record], calls: list[Change]) -> dict[tuple[str, str], Record] | None:
    """What a dict would hold after the calls; None where they break a rule."""
    after = dict(model)
    for change in calls:
        if change.record is None:
            after.pop((change.kind, change.id), None)
        else:
            after[change.kind, change.id] = change.record
    for (kind, key), record in after.items():
        adds = record is not model.get((kind, key))
        if isinstance(record, Banner) and ("campaigns", record.campaign_id) not in after:
            gone = ("campaigns", record.campaign_id) in {(c.kind, c.id) for c in calls if c.record is None}
            if gone or adds:
                return None
    return after


@given(st.lists(st.lists(changes, min_size=1, max_size=5), max_size=8))
@settings(max_examples=60, deadline=None)
def test_any_changes_leave_what_a_dict_would_hold(calls: list[list[Change]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Settings(home=Path(folder))
        store, follower = SqliteCatalogue(home), SqliteCatalogue(home)
        model: dict[tuple[str, str], Record] = {}
        version, audited = 0, 0
        for call in calls:
            after = expected_of(model, call)
            if after is None:
                with pytest.raises(CatalogueRefused):
                    store.change(call, "me", "r1")
                assert follower.version() == version
            else:
                assert store.change(call, "me", "r1") == version + 1
                model, version = after, version + 1
                audited += len({(change.kind, change.id) for change in call})
            seen = follower.read()
            assert seen.version == follower.version() == version
            assert {(kind, key): r for kind in KINDS for key, r in seen.records[kind].items()} == model
        fresh = SqliteCatalogue(home)
        assert fresh.read() == store.read() == follower.read()
        assert len(store.audit(1_000)) == audited
        for each in (store, follower, fresh):
            each.close()


def test_a_deletion_is_kept_and_says_what_there_was(store: SqliteCatalogue) -> None:
    assert store.version() == 0
    store.change([put(campaign()), put(banner(title="first"))], "ann", "r1", KNOWN)
    store.change([Change("banners", "b1", None), Change("banners", "wb", None)], "bob", "r2", KNOWN)
    read = store.read()
    assert read.deleted["banners"] == {"b1": banner(title="first"), "wb": KNOWN["banners"]["wb"]}
    assert read.versions["banners"] == {"b1": 2, "wb": 2}
    store.change([put(banner("wb", "w1"))], "bob", "r3", KNOWN)
    assert store.read().deleted["banners"].keys() == {"b1"}
    assert store.read().records["banners"].keys() == {"wb"}


def test_every_change_is_in_the_audit(store: SqliteCatalogue) -> None:
    store.change([put(campaign()), put(banner())], "ann", "r1")
    store.change([put(banner(title="new"))], "bob", "r2")
    store.change([Change("banners", "b1", None)], "bob", "r3")
    entries = store.audit()
    assert [(e["seq"], e["version"], e["by"], e["request_id"], e["kind"], e["id"]) for e in entries] == [
        (4, 3, "bob", "r3", "banners", "b1"),
        (3, 2, "bob", "r2", "banners", "b1"),
        (2, 1, "ann", "r1", "banners", "b1"),
        (1, 1, "ann", "r1", "campaigns", "c1"),
    ]
    assert [(e["before"] or {}).get("title") for e in entries[:3]] == ["new", "", None]
    assert [(e["after"] or {}).get("title") for e in entries[:3]] == [None, "new", ""]
    assert store.audit(2, before=4) == entries[1:3]
    assert all(entry["at"].endswith("+00:00") for entry in entries)


def test_a_banner_needs_its_campaign_and_placements(store: SqliteCatalogue) -> None:
    with pytest.raises(UnknownReference, match="banner 'b1': there is no campaign 'c1'") as caught:
        store.change([put(campaign("c2")), put(banner())], "ann", "r1", KNOWN)
    assert [(fault.index, fault.field) for fault in caught.value.faults] == [(1, "campaign_id")]
    store.change([put(banner("b1", "w1", placements=["hero"]))], "ann", "r1", KNOWN)
    with pytest.raises(UnknownReference, match="there is no placement 'side'") as caught:
        store.change([put(banner("b2", "w1", placements=["hero", "side"]))], "ann", "r1", KNOWN)
    assert caught.value.faults[0].field == "placements[1]"
    store.change([put(banner("b2", "c1", placements=["x"])), put(campaign())], "ann", "r1")
    assert store.version() == 2, "without any placement all names are good, and order within a call does not count"


def test_only_new_references_are_looked_at(store: SqliteCatalogue) -> None:
    store.change([put(banner("b1", "w1", placements=["hero"]))], "ann", "r1", KNOWN)
    store.change([Change("placements", "hero", None), put(Placement(placement_id="side"))], "ann", "r2", KNOWN)
    store.change([put(banner("b1", "w1", placements=["hero"], status="paused"))], "ann", "r3", {})
    with pytest.raises(UnknownReference, match="placement 'hero'"):
        store.change([put(banner("b2", "w1", placements=["hero"]))], "ann", "r4", KNOWN)


def test_a_campaign_with_banners_stays_unless_they_go_too(store: SqliteCatalogue) -> None:
    store.change([put(campaign()), put(banner()), put(banner("b2", "w1"))], "ann", "r1", KNOWN)
    for key, named in (("c1", "b1"), ("w1", "b2, wb")):
        with pytest.raises(StillInUse, match=f"campaign '{key}' still has banners: {named};"):
            store.change([Change("campaigns", key, None)], "ann", "r2", KNOWN)
    store.change([Change("campaigns", "c1", None), put(banner("b1", "w1"))], "ann", "r3", KNOWN)
    store.change([Change("campaigns", "w1", None)], "ann", "r4", KNOWN, cascade=True)
    read = store.read()
    assert read.deleted["banners"].keys() == {"b1", "b2", "wb"}
    assert read.deleted["campaigns"].keys() == {"c1", "w1"}
    with pytest.raises(UnknownReference, match="no campaign 'w1'"):
        store.change([put(banner("b3", "w1"))], "ann", "r5", KNOWN)


def test_a_version_expected_is_the_records_own(store: SqliteCatalogue) -> None:
    store.change([put(campaign(), 0)], "ann", "r1")
    store.change([put(campaign("c2"), 0)], "ann", "r2")
    with pytest.raises(VersionConflict, match="version 0 was expected, it has version 1; read it again"):
        store.change([put(campaign(), 0)], "ann", "r3")
    store.change([put(campaign(title="x"), 1)], "ann", "r3")
    with pytest.raises(VersionConflict, match="version 1 was expected, it has version 3"):
        store.change([Change("campaigns", "c1", None, 1)], "ann", "r4")
    with pytest.raises(VersionConflict, match="the same call changes it before"):
        store.change([put(campaign(), 3), put(campaign(), 3)], "ann", "r4")
    store.change([Change("campaigns", "c1", None, 3)], "ann", "r5")
    with pytest.raises(VersionConflict):
        store.change([put(campaign(), 0)], "ann", "r6")
    assert store.change([], "ann", "r7") == store.version() == 4


def test_a_change_of_the_wrong_form_is_refused(store: SqliteCatalogue) -> None:
    for change, told in [
        (Change("shops", "s", None), "'shops' is not one of campaigns, banners"),
        (Change("banners", "b9", banner()), "banner_id must be 'b9', of banners"),
        (Change("placements", "b1", banner()), "placement_id must be 'b1', of placements"),
    ]:
        with pytest.raises(UnknownReference, match=told):
            store.change([change], "ann", "r1")
    assert store.version() == 0
