"""Every direct dependency is explained, and every lock is hashed and free of index addresses."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ("dev", "spark", "platform", "serving")
ROW = re.compile(r"^\| `([^`]+)` \| `([^`]+)` \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
PIN = re.compile(r"^([A-Za-z0-9][\w.-]*)(\[[\w,-]+\])?==[\w.+!]+( ; [^\\]+)? \\$")


def direct() -> dict[str, str]:
    """Direct dependencies of every group by name, with their bound: {"bentoml": ">=1.4.39"}."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [project["build-system"]["requires"], project["project"]["dependencies"]]
    groups += project["project"]["optional-dependencies"].values()
    groups += project["dependency-groups"].values()
    pairs = [re.split(r"(?=[<>=!~;])", requirement, maxsplit=1) for group in groups for requirement in group]
    return {pair[0].strip(): pair[1].split(";")[0].strip() for pair in pairs if not pair[0].startswith("marquee[")}


def rows() -> dict[str, tuple[str, str, str]]:
    """(bound, reason, licence) by name, from the document's tables."""
    found = ROW.findall((ROOT / "docs" / "dependencies.md").read_text())
    assert len(found) == len({name for name, *_ in found}), "a dependency is listed twice"
    return {name: (bound, reason, licence) for name, bound, reason, licence in found}


def test_every_direct_dependency_is_listed_with_its_bound() -> None:
    wanted = direct()
    assert len(wanted) > 25
    assert {name: entry[0] for name, entry in rows().items()} == wanted


def test_every_direct_dependency_has_a_lower_bound() -> None:
    assert [name for name, bound in direct().items() if not bound.startswith(">=")] == []


def test_licences_are_those_of_the_installed_packages() -> None:
    """The words of a licence's name must stand in the package's own metadata, so the column cannot be guessed."""
    compared = 0
    for name, (_, _, licence) in rows().items():
        if name == "hatchling":  # builds the wheel; not installed beside it
            continue
        package = metadata(re.sub(r"\[.*", "", name))
        stated = [package.get("License-Expression"), package.get("License"), *(package.get_all("Classifier") or [])]
        stated = [text for text in stated if text and (text in stated[:2] or text.startswith("License"))]
        family = re.split(r"[ -]", licence.strip())[0]
        assert any(family in text for text in stated), f"{name}: {licence} is not in {[text[:60] for text in stated]}"
        compared += 1
    assert compared == len(direct()) - 1


@pytest.mark.parametrize("path", [*(f"requirements/{lock}.txt" for lock in LOCKS), "docker/build.txt"])
def test_lock_holds_only_hashed_pins(path: str) -> None:
    text = (ROOT / path).read_text()
    assert not re.search(r"://|--(?:extra-)?index|--find-links|--trusted-host| @ |^-e ", text, re.MULTILINE)
    pins = 0
    for entry in re.split(r"\n(?=[^ ])", text.strip()):
        if entry.startswith("#"):
            continue
        head, *hashes = entry.splitlines()
        assert PIN.match(head), head
        assert hashes, head
        assert all(re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line) for line in hashes), head
        pins += 1
    assert pins >= (100 if path.startswith("requirements") else 5)


@pytest.mark.parametrize("lock", LOCKS)
def test_cpu_builds_are_locked_and_the_others_are_not(lock: str) -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE))
    assert "xgboost-cpu" in pinned
    assert ("tensorflow-cpu" in pinned) == (lock != "serving")
    assert not pinned & {"tensorflow", "xgboost", "dbt-core-experimental-parser"}


def test_locks_grow_from_serving_to_platform_to_spark_to_dev() -> None:
    """The same name has the same version in all of them, and the smaller lock is part of the larger."""
    pins = [
        set(re.findall(r"^([\w.-]+==[^ ;]+)", (ROOT / "requirements" / f"{lock}.txt").read_text(), re.MULTILINE))
        for lock in ("serving", "platform", "spark", "dev")
    ]
    assert pins[0] < pins[1] < pins[2] < pins[3]
