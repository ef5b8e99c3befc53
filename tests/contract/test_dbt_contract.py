"""The dbt project agrees with the contract, and says what each of its tables is."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from marquee import contract
from marquee.settings import ROOT

MODELS = ROOT / "dbt_project" / "models"


def _properties(kind: str) -> dict[str, dict[str, Any]]:
    entries = {}
    for file in sorted(MODELS.rglob("*.yml")):
        for entry in yaml.safe_load(file.read_text(encoding="utf-8")).get(kind, []):
            assert entry["name"] not in entries, f"{entry['name']} is described twice"
            entries[entry["name"]] = entry
    return entries


def test_mart_columns_and_types_are_the_contract() -> None:
    models, compared = _properties("models"), 0
    for name, table in contract.MART_TABLES.items():
        columns = models[name]["columns"]
        assert models[name]["config"]["contract"]["enforced"] is True
        assert [(c["name"], c["data_type"]) for c in columns] == [
            (c.name, contract.SQL_TYPES[c.type]) for c in table.columns
        ]
        assert [{"type": "not_null"} in c.get("constraints", []) for c in columns] == [
            c.required for c in table.columns
        ]
        compared += len(columns)
    assert compared == sum(len(table.columns) for table in contract.MART_TABLES.values()) == 88


def test_staging_columns_are_the_contract() -> None:
    models, compared = _properties("models"), 0
    for name, table in contract.RAW_TABLES.items():
        assert [c["name"] for c in models[f"stg_{name}"]["columns"]] == list(table.names)
        compared += len(table.columns)
    assert compared == sum(len(table.columns) for table in contract.RAW_TABLES.values())
    assert {name for name in models if name.startswith("stg_")} == {f"stg_{name}" for name in contract.RAW_TABLES}


def test_sources_are_the_raw_tables() -> None:
    tables = {table["name"]: table for table in _properties("sources")["raw"]["tables"]}
    assert set(tables) == {"batches", *contract.RAW_TABLES}
    assert all(table["description"].startswith("One row per ") for table in tables.values())


def test_every_model_is_described_by_its_grain() -> None:
    models = _properties("models")
    files = {file.stem for file in MODELS.rglob("*.sql")}
    assert files == set(models)
    assert len(files) >= 29
    for name, model in models.items():
        assert model["description"].startswith("One row per "), name
    for table in contract.MART_TABLES.values():
        assert models[table.name]["description"].startswith(table.grain)


@pytest.mark.parametrize("file", sorted(MODELS.rglob("*.sql")), ids=lambda file: file.stem)
def test_model_files_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 90


def test_every_reader_has_an_exposure() -> None:
    readers = {"feast", "two_tower", "ranker", "service", "placement_report"}
    assert readers <= set(_properties("exposures"))


def test_what_an_exposure_reads_is_under_contract() -> None:
    """Names and types of what leaves dbt; a seed has its types in its configuration."""
    models, seeds, checked = _properties("models"), set(), 0
    for file in (ROOT / "dbt_project" / "seeds").glob("*.yml"):
        seeds |= {seed["name"] for seed in yaml.safe_load(file.read_text(encoding="utf-8"))["seeds"]}
    for name, exposure in _properties("exposures").items():
        for reference in exposure["depends_on"]:
            read = reference.removeprefix("ref('").removesuffix("')")
            if read in seeds or name == "placement_report":
                continue
            assert models[read].get("config", {}).get("contract") == {"enforced": True}, f"{name} reads {read}"
            assert all("data_type" in column for column in models[read]["columns"])
            checked += 1
    assert checked > 20


def test_exposures_name_what_the_code_reads() -> None:
    """Every table of dbt's that features, training and serving ask the warehouse for."""
    exposed = " ".join(str(entry["depends_on"]) for entry in _properties("exposures").values())
    code = [file for room in ("features", "training", "serving") for file in (ROOT / room).rglob("*.py")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in code)
    read = set(re.findall(r"(?:marts|staging|intermediate)\.(\w+)", text))
    assert {"banner_catalogue", "stg_categories", "training_rows"} <= read
    assert {name for name in read if f"'{name}'" not in exposed} == set()


def test_weighted_kinds_are_event_kinds() -> None:
    project = yaml.safe_load((ROOT / "dbt_project" / "dbt_project.yml").read_text(encoding="utf-8"))
    weights = project["vars"]["implicit_weights"]
    assert weights == {"product_view": 1.0, "page_view": 1.0, "favourite": 1.5, "cart": 1.5, "order": 3.0}
    assert weights == contract.IMPLICIT_WEIGHTS
    assert set(weights) <= set(contract.EVENT_KINDS)
    defaults = {
        "session_minutes": contract.SESSION_GAP_MINUTES,
        "session_half_life_minutes": contract.SESSION_HALF_LIFE_MINUTES,
        "session_products": contract.SESSION_PRODUCTS,
    }
    assert {name: project["vars"][name] for name in defaults} == defaults
