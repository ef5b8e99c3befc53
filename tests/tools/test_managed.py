"""The verb ``marquee catalogue``: what is exported can be applied, and a file that does not fit changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ingestion.catalogue_store import SqliteCatalogue, StillInUse, UnknownReference
from marquee.cli import app
from marquee.errors import MarqueeError
from marquee.settings import Settings

pytestmark = pytest.mark.tools
CAMPAIGN = {"campaign_id": "c1", "starts_at": "2026-01-01T00:00:00", "ends_at": "2026-02-01T00:00:00", "title": "One"}
BANNER = {"banner_id": "b1", "campaign_id": "c1", "product_ids": ["p1"]}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home" / "log").mkdir(parents=True)
    return tmp_path / "home"


def run(home: Path, *words: str) -> Any:
    answer = CliRunner().invoke(app, ["catalogue", *words, "--home", str(home), "--json"])
    if answer.exception:
        raise answer.exception
    return json.loads(answer.output)


def written(home: Path, told: Any) -> str:
    file = home.parent / "told.json"
    file.write_text(told if isinstance(told, str) else json.dumps(told))
    return str(file)


def test_what_is_exported_can_be_applied(home: Path, tmp_path: Path) -> None:
    told = {"banners": [BANNER], "campaigns": [CAMPAIGN], "products": [{"product_id": "p1", "price": 3.0}]}
    assert run(home, "apply", written(home, told))["version"] == 1
    assert run(home, "apply", written(home, {"delete": {"products": ["p1"]}})) | {"request_id": ""} == {
        **{"version": 2, "changes": 1, "request_id": ""}
    }
    exported = run(home, "export")
    assert exported["delete"]["products"] == ["p1"]
    other = tmp_path / "other"
    (other / "log").mkdir(parents=True)
    run(other, "apply", written(other, exported))
    assert run(other, "export") == exported
    assert run(home, "list", "campaigns") == {"campaigns": [{"id": "c1", "title": "One", "version": 1}]}
    assert run(home, "show", "banners", "b1")["product_ids"] == ["p1"]
    entries = run(home, "audit", "--limit", "1")["entries"]
    assert [(e["seq"], e["kind"], e["after"]) for e in entries] == [(4, "products", None)]
    for words in (["list", "banners"], ["show", "campaigns", "c1"], ["audit"], ["export"]):
        answer = CliRunner().invoke(app, ["catalogue", *words, "--home", str(home)])
        assert answer.exit_code == 0
        assert "c1" in answer.output or "b1" in answer.output


def test_a_file_that_does_not_fit_changes_nothing(home: Path) -> None:
    for told, error, match in (
        ("{", MarqueeError, "not valid JSON"),
        ([], MarqueeError, "expected an object of lists by kind"),
        ({"shops": []}, MarqueeError, "'shops' is not one of campaigns"),
        ({"delete": {"shops": []}}, MarqueeError, "'shops' is not one of campaigns"),
        ({"campaigns": [CAMPAIGN, CAMPAIGN | {"budget": -1}]}, MarqueeError, r"campaigns\.1\.budget: "),
        ({"campaigns": [CAMPAIGN], "banners": [BANNER | {"campaign_id": "c9"}]}, UnknownReference, "no campaign 'c9'"),
    ):
        with pytest.raises(error, match=match):
            run(home, "apply", written(home, told))
    assert SqliteCatalogue(Settings(home=home)).version() == 0
    run(home, "apply", written(home, {"campaigns": [CAMPAIGN], "banners": [BANNER]}))
    gone = written(home, {"delete": {"campaigns": ["c1"]}})
    with pytest.raises(StillInUse):
        run(home, "apply", gone)
    assert run(home, "apply", gone, "--cascade")["version"] == 2
    assert run(home, "export")["delete"]["banners"] == ["b1"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["list"], "write it as: marquee catalogue list KIND"),
        (["show", "banners"], "write it as: marquee catalogue show KIND ID"),
        (["export", "x"], "write it as: marquee catalogue export"),
        (["list", "shops"], "'shops' is not one of campaigns, banners"),
        (["show", "banners", "b9"], "there is none of banners called 'b9'"),
    ],
)
def test_a_wrong_call_says_how_it_is_written(home: Path, words: list[str], told: str) -> None:
    with pytest.raises(MarqueeError, match=told):
        run(home, *words)
