"""The documents say what the code says: settings, state, DAGs, commands, links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from marquee.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS = (ROOT / "docs" / "operations.md").read_text()
DOCUMENTS = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
DECISIONS = sorted((ROOT / "docs" / "adr").glob("*.md"))


def test_settings_table_is_the_settings_class() -> None:
    rows = dict(re.findall(r"^\| `MARQUEE_(\w+)` \| (.+ \| .+) \|$", OPERATIONS, re.MULTILINE))
    assert len(rows) >= 14
    fields = Settings.model_fields.items()
    expected = {name.upper(): (field.default, field.description) for name, field in fields}
    shown = {k: f"{'–' if default is None else f'`{default}`'} | {about}" for k, (default, about) in expected.items()}
    assert rows == shown


def test_state_table_names_every_place() -> None:
    settings = Settings(home=Path("/home"))
    places = [name for name, value in vars(Settings).items() if isinstance(value, property)]
    paths = {getattr(settings, name) for name in places if isinstance(getattr(settings, name), Path)}
    assert len(paths) >= 7
    table = OPERATIONS.split("## Where state lies")[1].split("### Backup")[0]
    named = {Path("/home") / entry.rstrip("/") for entry in re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE)}
    assert paths <= named


def test_dag_table_lists_the_dags() -> None:
    table = OPERATIONS.split("## What each DAG does")[1].split("\n## ")[0]
    named = set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE))
    assert named == {path.stem for path in (ROOT / "dags").glob("*.py")}
    assert len(named) == 6


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = path.read_text()
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
        file = path.parent / target if target else path
        assert file.exists(), f"{path.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}
            assert anchor in slugs, f"{path.name}: {target}#{anchor}"


def test_documents_are_found() -> None:
    names = {path.name for path in DOCUMENTS}
    assert {"architecture.md", "dependencies.md", "operations.md", "CONTRIBUTING.md", "CHANGELOG.md"} <= names


def test_decisions_are_numbered_without_gaps_and_have_all_parts() -> None:
    assert [int(path.name[:4]) for path in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    assert len(DECISIONS) >= 6
    for path in DECISIONS:
        text = path.read_text()
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        parts = re.findall(r"^(?:## (\w+)|(Status): \w+)", text, re.MULTILINE)
        assert ["".join(part) for part in parts] == ["Status", "Context", "Decision", "Consequences"], path.name


@pytest.mark.tools
@pytest.mark.skipif(not (ROOT / "marquee" / "cli.py").exists(), reason="marquee/cli.py is not there yet")
def test_commands_in_the_documents_exist() -> None:
    pages = [path for path in DOCUMENTS if path.name not in ("README.md", "api.md")]
    text = "".join(path.read_text() for path in pages)
    spans = re.findall(r"(?:^|`)marquee ([a-z][a-z-]*)", text, re.MULTILINE)
    commands = sorted(set(spans))
    assert len(commands) >= 3
    for command in commands:
        program = "import sys; from marquee.cli import main; sys.argv[0] = 'marquee'; main()"
        call = [sys.executable, "-c", program, command, "--help"]
        result = subprocess.run(call, capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"`marquee {command}`: {result.stderr[-300:]}"
