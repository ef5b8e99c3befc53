"""Feast, the ranker, the API and its OpenAPI document agree with the contract; each test counts what it compared."""

from __future__ import annotations

import json
import types
import typing
from datetime import datetime
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
import xgboost as xgb
from feast import Entity, FeatureService, FeatureView
from feast.types import Bool, Float64, Int64, String, UnixTimestamp
from pydantic import BaseModel, ValidationError

from features.definitions import OFFLINE_VIEWS, RANKER_VIEWS, entity_keys, feature_names, feature_objects
from features.freshness import TTL
from features.matrix import READS, SESSION_FIELDS, VISITOR_FIELDS, Shares, ranker_matrix
from ingestion.batch import check_event
from marquee import contract
from marquee.contract import LONGEST_ID
from marquee.errors import BundleError
from serving import schemas
from serving.http.visitors import VisitorCard
from training.calibration import Platt
from training.ranker import Ranker

pytestmark = pytest.mark.tools

FEAST_TYPES = {String: "string", Int64: "int", Float64: "float", Bool: "bool", UnixTimestamp: "timestamp"}
PYTHON_TYPES = {str: "string", int: "int", float: "float", bool: "bool", datetime: "timestamp"}
FEATURE_TABLES = RANKER_VIEWS


# --- Feast --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    made = feature_objects(tmp_path_factory.mktemp("offline"), {"ranker_0123": READS})
    by_name = {made_object.name: made_object for made_object in made}
    assert len(by_name) == len(made) == 3 + 5 + 2
    return by_name


def test_feast_views_are_the_feature_tables(objects: dict[str, Any]) -> None:
    views = {name: view for name, view in objects.items() if isinstance(view, FeatureView)}
    entities = {name: entity for name, entity in objects.items() if isinstance(entity, Entity)}
    assert set(views) == {table.name for table in OFFLINE_VIEWS} == set(TTL)
    assert [name for name, view in views.items() if not view.online] == [contract.SESSION_FEATURES.name]
    compared = 0
    for table in OFFLINE_VIEWS:
        view = views[table.name]
        fields = {field.name: FEAST_TYPES[field.dtype] for field in view.features}
        assert fields == {name: table.column(name).type for name in feature_names(table)}
        assert tuple(entities[entity].join_key for entity in view.entities) == entity_keys(table)
        assert {"visitor_id", "banner_id", "session_id"} >= set(entity_keys(table)) != set()
        assert view.batch_source.timestamp_field == "feature_at"
        assert Path(view.batch_source.path).parts[-2:] == (table.name, "*.parquet")
        assert view.ttl == TTL[table.name]
        compared += len(fields) + len(entity_keys(table)) + 1
    assert compared == sum(len(table.columns) for table in OFFLINE_VIEWS) > 25


def test_feast_services_hold_what_is_read(objects: dict[str, Any]) -> None:
    services = {name: service for name, service in objects.items() if isinstance(service, FeatureService)}
    whole = {table.name: feature_names(table) for table in RANKER_VIEWS}
    held = {"training_set": whole, "ranker_0123": READS}
    assert set(services) == set(held)
    compared = 0
    for service, reads in held.items():
        fields = {
            view.name: tuple(field.name for field in view.features)
            for view in services[service].feature_view_projections
        }
        assert fields == {view: tuple(names) for view, names in reads.items()}
        compared += sum(map(len, fields.values()))
    assert compared == sum(map(len, whole.values())) + sum(map(len, READS.values())) > 20


# --- the ranker's inputs ------------------------------------------------------------------------------------


class Recorder(dict[str, Any]):
    """Raw columns that remember which of them were read."""

    def __init__(self, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.read: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.read.add(key)
        return super().__getitem__(key)


def raw_columns() -> Recorder:
    """One impression; every raw number is another one, so that a swapped column shows."""
    names = {c.name for table in FEATURE_TABLES for c in table.columns if c.type == "float"}
    names |= {c.name for c in contract.BANNER_CATALOGUE.columns if c.type in ("int", "float")}
    values = {name: 100.0 + place for place, name in enumerate(sorted(names))}
    names = [column.name for column in contract.SESSION_MOMENTS.columns if column.type == "float"]
    values |= {name: 200.0 + place for place, name in enumerate(names)}
    context = {"placement": 1.0, "position": 2.0, "device": 3.0, "impressed_at": 7200.0 * 24, "last_seen_at": 3600.0}
    moments = {"session_started_at": 7000.0 * 24, "starts_at": 0.0, "ends_at": 1e6, "last_category": 1.0}
    return Recorder(values | context | moments)


def shares(*values: float) -> Shares:
    return Shares.of(np.array([values]))


def test_the_matrix_makes_every_ranker_feature_once() -> None:
    columns = raw_columns()
    matrix = ranker_matrix(columns, shares(0.6, 0.8), shares(0.5, 0.5), shares(1.0, 0.0), base_rate=0.1)
    assert matrix.shape == (1, len(contract.RANKER_FEATURES))
    assert len(set(contract.RANKER_FEATURES)) == len(contract.RANKER_FEATURES) >= 30
    compared = 0
    for place, name in enumerate(contract.RANKER_FEATURES):
        assert np.isfinite(matrix[0, place]), name
        if name in columns:
            assert matrix[0, place] == np.float32(columns[name]), name
            compared += 1
    assert compared >= 13


def test_the_matrix_refuses_a_feature_that_nobody_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "RANKER_FEATURES", (*contract.RANKER_FEATURES, "shoe_size"))
    with pytest.raises(KeyError, match="shoe_size"):
        ranker_matrix(raw_columns(), shares(1.0, 1.0), shares(1.0, 1.0), shares(1.0, 1.0), 0.1)


def test_what_the_matrix_reads_is_in_the_contract() -> None:
    columns = raw_columns()
    ranker_matrix(columns, shares(1.0, 1.0), shares(1.0, 1.0), shares(1.0, 1.0), 0.1)
    tables = (*FEATURE_TABLES, contract.SESSION_MOMENTS, contract.BANNER_CATALOGUE, contract.TRAINING_ROWS)
    known = {name for table in tables for name in table.names} | {"placement"}  # the code of placement_id
    assert columns.read - known == set()
    assert len(columns.read) > 8
    # What a bundle says it reads is what the matrix reads of the feature store, and the text of interests.
    features = {name for table in FEATURE_TABLES for name in feature_names(table)}
    assert (columns.read & features) | {"category_affinity"} == {name for names in READS.values() for name in names}
    assert set(VISITOR_FIELDS) < features
    # What it reads of a session is what training joins of it, and the interest as shares.
    session = set(contract.SESSION_MOMENTS.names) - {"impression_id", "visitor_id", "impressed_at"}
    assert (columns.read & session) | {"category_interest"} == set(SESSION_FIELDS) == session


def save_ranker(folder: Path, names: list[str] | None) -> None:
    rng = np.random.default_rng(0)
    data = xgb.DMatrix(rng.random((40, len(contract.RANKER_FEATURES))), rng.random(40) > 0.5, feature_names=names)
    booster = xgb.train({"objective": "binary:logistic", "nthread": 1}, data, 2)
    Ranker(booster, Platt(1.0, 0.0)).save(folder)


def test_the_ranker_keeps_the_order_of_its_features(tmp_path: Path) -> None:
    save_ranker(tmp_path, list(contract.RANKER_FEATURES))
    assert tuple(Ranker.load(tmp_path).booster.feature_names) == contract.RANKER_FEATURES


@pytest.mark.parametrize("case", ["swapped", "renamed", "unnamed"])
def test_a_ranker_of_other_features_is_refused(tmp_path: Path, case: str) -> None:
    names = list(contract.RANKER_FEATURES)
    others = {"swapped": [names[1], names[0], *names[2:]], "renamed": [*names[:-1], "shoe_size"], "unnamed": None}
    save_ranker(tmp_path, others[case])
    with pytest.raises(BundleError, match="fitted on other features"):
        Ranker.load(tmp_path)


def test_the_hash_of_the_features_knows_their_order() -> None:
    names = contract.RANKER_FEATURES
    assert contract.feature_hash() == contract.feature_hash(names)
    assert len({contract.feature_hash(each) for each in (names, names[::-1], names[:-1])}) == 3


# --- the API's schemas --------------------------------------------------------------------------------------


def kind_of(annotation: Any) -> tuple[str, bool]:
    """The contract's type of an annotation, and whether it admits ``None``."""
    if typing.get_origin(annotation) is types.UnionType or typing.get_origin(annotation) is typing.Union:
        parts = [part for part in typing.get_args(annotation) if part is not type(None)]
        assert len(parts) == 1, annotation
        return kind_of(parts[0])[0], True
    if typing.get_origin(annotation) is typing.Annotated:
        return kind_of(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) is typing.Literal:
        assert all(isinstance(value, str) for value in typing.get_args(annotation))
        return "string", False
    return PYTHON_TYPES[annotation], False


def test_event_schema_is_the_events_table() -> None:
    fields = schemas.Event.model_fields
    assert tuple(fields) == contract.EVENTS.names
    compared = 0
    for column in contract.EVENTS.columns:
        field = fields[column.name]
        assert kind_of(field.annotation) == (column.type, not column.required), column.name
        assert field.is_required() is column.required, column.name
        compared += 1
    assert compared == len(contract.EVENTS.columns) > 20


def test_literals_are_the_contracts() -> None:
    assert typing.get_args(schemas.Kind) == contract.EVENT_KINDS
    assert typing.get_args(schemas.Device) == contract.DEVICES
    assert len(contract.EVENT_KINDS) == 15
    assert len(contract.DEVICES) == 4


VALUES = {"occurred_at": datetime(2026, 2, 2, 12), "position": 0, "quantity": 1.0, "amount": 2.5, "propensity": 0.5}


@pytest.mark.parametrize("kind", contract.EVENT_KINDS)
def test_api_and_sources_ask_the_same_of_a_kind(kind: str) -> None:
    needed = contract.required_by_kind(kind)
    whole: dict[str, Any] = {"kind": kind} | {name: VALUES.get(name, "x1") for name in needed}
    row = schemas.Event.model_validate(whole).row()
    assert tuple(row) == contract.EVENTS.names
    assert check_event(row) is None
    for name in needed:
        without = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(ValidationError, match=name):
            schemas.Event.model_validate(without)
        assert name in str(check_event(row | {name: None}))
    assert len(needed) >= 3


@pytest.mark.parametrize(
    ("field", "value", "is_right"),
    [
        ("propensity", 0.0, False),
        ("propensity", 1.0, True),
        ("propensity", 1.1, False),
        ("quantity", -1.0, False),
        ("quantity", 0.0, True),
        ("amount", -0.01, False),
        ("position", -1, False),
        ("position", 0, True),
        ("occurred_at", datetime(1989, 12, 31), False),
        ("occurred_at", datetime(1990, 1, 1), True),
        ("occurred_at", datetime(2101, 1, 1), False),
    ],
)
def test_api_and_sources_draw_the_same_borders(field: str, value: Any, is_right: bool) -> None:
    event = {"event_id": "e", "kind": "page_view", "occurred_at": VALUES["occurred_at"], "visitor_id": "v"}
    assert (check_event(event | {field: value}) is None) is is_right
    if is_right:
        assert schemas.Event.model_validate(event | {field: value}).row()[field] == value
    else:
        with pytest.raises(ValidationError, match=field):
            schemas.Event.model_validate(event | {field: value})


def test_every_optional_id_is_bounded_and_may_be_empty() -> None:
    event = {"event_id": "e", "kind": "page_view", "occurred_at": VALUES["occurred_at"], "visitor_id": "v"}
    ids = list(contract.BOUNDED)
    assert set(ids) >= {column.name for column in contract.EVENTS.columns if column.name.endswith("_id")}
    optional = [name for name in ids if not contract.EVENTS.column(name).required]
    assert (len(ids), len(optional)) == (12, 10)
    for name in ids:
        with pytest.raises(ValidationError, match=name):
            schemas.Event.model_validate(event | {name: "x" * (LONGEST_ID + 1)})
        assert schemas.Event.model_validate(event | {name: "x" * LONGEST_ID}).row()[name] == "x" * LONGEST_ID
    for name in optional:
        assert schemas.Event.model_validate(event | {name: ""}).row()[name] is None
    assert schemas.RequestContext.model_validate({"session_id": ""}).session_id is None


# --- OpenAPI ------------------------------------------------------------------------------------------------

ROUTES = {
    "post /v1/banners/recommend": (schemas.RecommendRequest, None),
    "post /v1/events": (schemas.Events, schemas.Accepted),
    "get /v1/visitors/{visitor_id}": (None, VisitorCard),
    "post /v1/visitors/features": (schemas.VisitorRequest, schemas.VisitorFeatures),
    "get /v1/models": (None, schemas.Running),
    "post /v1/model": (None, schemas.Running),
}
JSON_TYPES = {"string": "string", "int": "integer", "float": "number", "bool": "boolean", "timestamp": "string"}


@pytest.fixture(scope="module")
def openapi() -> dict[str, Any]:
    """What the service answers at ``/v1/openapi.json``, through JSON; made without starting it."""
    from serving.http.app import application
    from serving.http.documents import describe

    document: dict[str, Any] = json.loads(json.dumps(describe(application().rest)))
    return document


def component(openapi: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    schema: dict[str, Any] = openapi["components"]["schemas"][model.__name__]
    return schema


def reference(model: type[BaseModel] | None) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{model.__name__}"} if model else {}


def test_openapi_has_the_routes_with_the_models_fields(openapi: dict[str, Any]) -> None:
    compared = 0
    for route, (request, response) in ROUTES.items():
        method, path = route.split(" ")
        operation = openapi["paths"][path][method]
        asked = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
        assert asked == reference(request), route
        answered = operation["responses"]["202" if request is schemas.Events else "200"]
        schema = answered["content"]["application/json"]["schema"]
        if response:
            assert schema == reference(response), route
        else:
            assert schema["oneOf"] == [reference(schemas.RecommendResponse), reference(schemas.RecommendResponses)]
    models = (schemas.RecommendRequest, schemas.RecommendResponse, schemas.RecommendedBanner, schemas.RequestContext)
    models += (schemas.Accepted, schemas.Rejected, VisitorCard, schemas.Session, schemas.Running)
    for model in models:
        assert set(component(openapi, model)["properties"]) == set(model.model_fields)
        compared += len(model.model_fields)
    assert compared >= 40
    event = reference(schemas.Event)
    assert component(openapi, schemas.Events)["oneOf"] == [event, {"type": "array", "items": event}]
    assert component(openapi, schemas.RecommendRequest)["properties"]["n"]["maximum"] == contract.SLATE_LIMIT


def test_openapi_event_is_the_events_table(openapi: dict[str, Any]) -> None:
    event = component(openapi, schemas.Event)
    assert list(event["properties"]) == list(contract.EVENTS.names)
    assert event["required"] == [column.name for column in contract.EVENTS.columns if column.required]
    assert event["additionalProperties"] is False
    compared = 0
    for column in contract.EVENTS.columns:
        stated = event["properties"][column.name]
        branches = [stated] if column.required else stated["anyOf"]
        assert [branch["type"] for branch in branches] == [JSON_TYPES[column.type], "null"][: len(branches)]
        assert len(branches) == 2 - column.required
        compared += 1
    assert compared == len(contract.EVENTS.columns)
    assert event["properties"]["kind"]["enum"] == list(contract.EVENT_KINDS)
    assert event["properties"]["device"]["anyOf"][0]["enum"] == list(contract.DEVICES)
    assert event["properties"]["occurred_at"]["format"] == "date-time"


def references(node: Any) -> list[str]:
    if isinstance(node, list):
        return [found for part in node for found in references(part)]
    if not isinstance(node, dict):
        return []
    own = [node["$ref"]] if isinstance(node.get("$ref"), str) else []
    return own + [found for part in node.values() for found in references(part)]


def test_openapi_references_lead_somewhere(openapi: dict[str, Any]) -> None:
    found = references(openapi)
    known = {f"#/components/{kind}/{name}" for kind, parts in openapi["components"].items() for name in parts}
    assert set(found) - known == set()
    assert len(found) > 5


@pytest.mark.parametrize("model", [schemas.Event, schemas.RecommendRequest])
def test_openapi_examples_fit_their_schema_and_their_model(openapi: dict[str, Any], model: type[BaseModel]) -> None:
    schema = component(openapi, model)
    jsonschema.validate(schema["example"], schema | {"components": openapi["components"]})
    model.model_validate(schema["example"])
