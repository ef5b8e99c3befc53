"""Every command in the README parses, every verb is documented, and the API page names every field."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
import typer

from marquee.catalogue import Campaign
from marquee.cli import app
from serving.http.visitors import ErasureState
from serving.page_schemas import NextPages, NextRequest
from serving.product_schemas import ListedProduct, ProductList, ProductsRequest, SimilarAsked
from serving.schemas import Accepted, Event, RecommendedBanner, RecommendRequest, RecommendResponse, VisitorRequest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
API = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
CLI = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if line.strip()]
VERBS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def test_commands_were_found() -> None:
    assert len(COMMANDS) >= 15
    assert COMMANDS[:2] == ["make demo", "make test"]
    assert {shlex.split(command)[0] for command in COMMANDS} == {"make", "source", "marquee", "curl"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make ")])
def test_make_commands_name_a_target_and_known_variables(command: str) -> None:
    words = shlex.split(command)[1:]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, is_variable, _ = word.partition("=")
        pattern = rf"^{name} \?=" if is_variable else rf"^{name}:"
        assert re.search(pattern, makefile, re.MULTILINE), word
    dry = subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert dry.returncode == 0, dry.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("marquee ")])
def test_marquee_commands_parse(command: str) -> None:
    verb, *arguments = shlex.split(command)[1:]
    with VERBS[verb].make_context(verb, arguments):
        pass


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("curl ")])
def test_curl_bodies_are_valid_requests(command: str) -> None:
    words = shlex.split(command)
    body = json.loads(words[words.index("-d") + 1])
    if "/v1/campaigns/" in command:
        dates = {"starts_at": "2026-01-01T00:00:00", "ends_at": "2026-02-01T00:00:00"}
        assert Campaign.model_validate({"campaign_id": "c05", **dates, **body})
    else:
        schemas = {"/v1/banners/recommend": RecommendRequest, "/v1/events": Event, "/v1/pages/next": NextRequest}
        (schema,) = (schema for path, schema in schemas.items() if path in command)
        assert schema.model_validate(body)


def test_every_verb_is_documented_with_its_own_first_sentence() -> None:
    rows = dict(re.findall(r"^\| `marquee ([a-z-]+)` \| (.+) \|$", CLI, re.MULTILINE))
    assert rows == {name: verb.help.splitlines()[0].strip() for name, verb in VERBS.items()}
    assert len(rows) >= 15


@pytest.mark.parametrize(
    "schema",
    [
        RecommendRequest,
        RecommendResponse,
        RecommendedBanner,
        Event,
        SimilarAsked,
        ProductsRequest,
        ListedProduct,
        ProductList,
        NextRequest,
        NextPages,
    ],
)
def test_the_api_page_names_every_field(schema: type) -> None:
    # What only Marquee itself writes is not asked of an application.
    own = {"position", "request_id", "arm", "policy", "propensity", "features"} if schema is Event else set()
    fields = set(schema.model_fields) - own - {"context"}  # type: ignore[attr-defined]
    missing = [name for name in fields if not re.search(rf"`[^`]*\b{name}\b[^`]*`", API)]
    assert missing == []
    assert len(fields) >= 2


def test_json_examples_of_the_api_page_are_valid() -> None:
    examples = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", API, re.DOTALL)]
    request, accepted, event, visitor, erasure = examples
    assert RecommendRequest.model_validate(request)
    assert Accepted.model_validate(accepted)
    assert Event.model_validate(event)
    assert VisitorRequest.model_validate(visitor)
    assert ErasureState.model_validate(erasure)
