"""What the command line promises: every verb documented, every example parses, and help costs no heavy import."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from ingestion.load import TakenBack
from marquee.cli import app
from marquee.errors import MarqueeError
from marquee.upkeep import _taken_back_lines

VERBS = {
    *("simulate", "ingest", "sources", "check", "admit", "quarantine", "transform", "materialize", "train"),
    *("evaluate", "promote", "rollback", "history", "serve", "recommend", "status", "demo", "airflow"),
    *("check-skew", "forget", "shadow", "canary", "experiment", "monitor", "keys", "explain", "catalogue"),
    "notify",
    *("segments", "flag-sessions", "sample-sessions", "similar-items", "models", "bench-models", "tune-models"),
}
WITH_HOME = {
    *("simulate", "ingest", "transform", "check", "admit", "quarantine", "materialize", "train", "evaluate"),
    *("promote", "rollback", "history", "shadow", "canary", "experiment", "monitor", "keys", "explain", "catalogue"),
    "notify",
    *("serve", "recommend", "status", "check-skew", "forget"),
    *("segments", "flag-sessions", "sample-sessions", "similar-items", "bench-models", "tune-models"),
}
WITH_JSON = WITH_HOME - {"serve"}
HEAVY = (
    *("numpy", "pandas", "pyarrow", "duckdb", "tensorflow", "xgboost", "sklearn", "scipy", "feast", "dbt", "airflow"),
    *("great_expectations", "bentoml", "matplotlib"),
)

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def examples(verb: str) -> list[list[str]]:
    """The example lines of a verb's help, each as the words after ``marquee``."""
    head, _, text = str(COMMANDS[verb].epilog).partition(":")
    assert head in ("Example", "Examples"), f"{verb}: the epilog must begin with Example"
    words = [shlex.split(line) for part in text.split(" | ") for line in part.split("&&")]
    assert all(line[0] == "marquee" for line in words), f"{verb}: an example must begin with marquee: {words}"
    return [line[1:] for line in words]


def option(verb: str, flag: str) -> bool:
    return any(flag in parameter.opts for parameter in COMMANDS[verb].params)


def test_help_lists_every_verb_with_what_it_does() -> None:
    assert set(COMMANDS) == VERBS
    answer = CliRunner().invoke(app, ["--help"])
    assert answer.exit_code == 0
    listed = dict(line.split(maxsplit=1) for line in answer.output.partition("Commands:\n")[2].splitlines() if line)
    assert set(listed) == VERBS
    assert all(len(about.split()) >= 3 for about in listed.values()), listed


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_help_of_a_verb_tells_each_option_and_shows_an_example(verb: str) -> None:
    command = COMMANDS[verb]
    assert command.callback.__doc__.strip().endswith(".")
    answer = CliRunner().invoke(app, [verb, "--help"])
    assert answer.exit_code == 0
    shown = " ".join(answer.output.split())
    assert command.callback.__doc__ in shown
    assert str(command.epilog).split()[-1] in shown
    for parameter in command.params:
        assert parameter.help, f"{verb} {parameter.name} has no help"
        assert parameter.opts[0] in shown
    assert any(line[0] == verb for line in examples(verb)), f"{verb} shows no example of itself"


def test_examples_parse_with_the_options_there_are() -> None:
    parsed = 0
    for verb in sorted(VERBS):
        for name, *words in examples(verb):
            COMMANDS[name].make_context(name, words)  # a usage error when an option or argument does not fit
            parsed += 1
    assert parsed >= len(VERBS) + 8


@pytest.mark.parametrize("words", [["--colour"], ["extra"], ["--events", "many"]])
def test_parsing_can_fail(words: list[str]) -> None:
    with pytest.raises(Exception, match=r"colour|extra|many|integer"):
        COMMANDS["simulate"].make_context("simulate", words)


def test_home_and_json_are_where_they_are_promised() -> None:
    homes = {verb for verb in VERBS if option(verb, "--home")}
    jsons = {verb for verb in VERBS if option(verb, "--json")}
    assert homes >= WITH_HOME, WITH_HOME - homes
    assert jsons >= WITH_JSON, WITH_JSON - jsons
    assert VERBS - homes == {"sources", "models"}, "only what touches no installation needs no --home"


ON_AN_INSTALLATION: dict[str, list[str]] = {
    "check": [],
    "admit": ["shop-1", "--reason", "right"],
    "quarantine": ["shop-1", "--reason", "wrong"],
    "transform": [],
    "materialize": [],
    "train": [],
    "evaluate": ["banner_bundle:0123"],
    "promote": ["banner_bundle:0123"],
    "rollback": ["--reason", "worse"],
    "history": [],
    "explain": ["5f0c"],
    "shadow": ["banner_bundle:0123"],
    "canary": ["banner_bundle:0123"],
    "experiment": ["hero"],
    "monitor": [],
    "segments": [],
    "keys": ["list"],
    "catalogue": ["export"],
    "notify": ["list"],
    "serve": [],
    "recommend": ["v1", "--placement", "home_hero"],
    "check-skew": [],
    "forget": ["--visitor", "v1", "--yes"],
    "flag-sessions": [],
    "sample-sessions": ["--out", "made.parquet"],
    "similar-items": ["p0042"],
}
"""Verbs that begin no installation, with what they must be told."""
BEGINS = {"bench-models", "tune-models", "simulate", "ingest", "demo", "airflow", "status"}
"""Verbs that begin one, and the one that says what is there."""


def failure(*words: str) -> MarqueeError:
    error = CliRunner().invoke(app, list(words)).exception
    assert isinstance(error, MarqueeError), (words, error)
    return error


@pytest.mark.parametrize("verb", sorted(ON_AN_INSTALLATION))
def test_a_mistyped_home_is_refused_and_no_folder_is_made(verb: str, tmp_path: Path) -> None:
    home = tmp_path / "mistyped"
    told = str(failure(verb, *ON_AN_INSTALLATION[verb], "--home", str(home)))
    assert told.startswith(f"there is no installation at {home}; check --home or MARQUEE_HOME, or ")
    assert len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    home.mkdir()
    (home / "dbt").mkdir()  # a folder that is there, with nothing of an installation in it
    assert str(failure(verb, *ON_AN_INSTALLATION[verb], "--home", str(home))) == told
    assert [path.name for path in home.rglob("*")] == ["dbt"]


def test_every_verb_is_known_to_begin_an_installation_or_not() -> None:
    assert set(ON_AN_INSTALLATION).isdisjoint(BEGINS)
    assert set(ON_AN_INSTALLATION) | BEGINS >= WITH_HOME


def test_status_of_a_mistyped_home_says_that_there_is_no_such_folder(tmp_path: Path) -> None:
    for home, is_there in ((tmp_path / "mistyped", False), (tmp_path, True)):
        answer = CliRunner().invoke(app, ["status", "--home", str(home)])
        assert answer.exit_code == 0
        assert (f"home      {home}\n" in answer.output, "no such folder" in answer.output) == (True, not is_there)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("reason", ["", " \t"])
@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["admit", "shop-1", "--reason"], "--reason"),
        (["admit", "training_rows", "--reason"], "--reason"),
        (["quarantine", "shop-1", "--reason"], "--reason"),
        (["rollback", "--reason"], "--reason"),
        (["promote", "banner_bundle:0123", "--override"], "--override"),
    ],
)
def test_a_reason_that_is_kept_says_something(words: list[str], option: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    told = failure(*words, reason, "--home", str(tmp_path))
    assert str(told) == f"{option} is empty; say why, for it is kept"
    assert [path.name for path in tmp_path.rglob("*")] == ["log"]


def test_a_batch_that_is_taken_back_says_what_is_left_to_do() -> None:
    alone = "shop-1 is quarantined; `marquee admit shop-1 --reason …` brings it back"
    assert _taken_back_lines("shop-1", TakenBack((), was_built=False)) == [alone]
    assert _taken_back_lines("shop-1", TakenBack(("shop-2", "shop-3"), was_built=True)) == [
        alone,
        "rows that it shared with others now count as theirs: shop-2, shop-3; run `marquee check` next",
        "its rows stand in the marts and features until `marquee transform`, which will build all days anew, and "
        "`marquee materialize`",
    ]


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = "import json, sys, marquee.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert {"marquee", "typer"} <= loaded
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)
