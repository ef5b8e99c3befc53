"""What the command line promises: every verb documented, every example parses, and help costs no heavy import."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from marquee.cli import app

VERBS = {
    *("simulate", "ingest", "sources", "check", "admit", "transform", "materialize", "train", "evaluate"),
    *("promote", "rollback", "history", "serve", "recommend", "status", "demo", "airflow"),
    *("check-skew", "forget"),
}
WITH_HOME = {
    *("simulate", "ingest", "transform", "check", "materialize", "train", "evaluate", "promote", "rollback"),
    *("serve", "recommend", "status", "check-skew", "forget"),
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
    assert VERBS - homes == {"sources"}, "only what touches no installation needs no --home"


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = "import json, sys, marquee.cli; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}
    assert {"marquee", "typer"} <= loaded
    assert loaded.isdisjoint(HEAVY), loaded.intersection(HEAVY)
