"""The images: pinned, hashed, not root, and holding exactly what they should. The container engine is not needed."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
IMAGES = ("platform", "serving")
PACKAGES = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
)
SERVED = {"marquee", "ingestion", "features", "training", "serving"}


def instructions(image: str) -> list[tuple[str, str]]:
    """(instruction, arguments) of a Dockerfile, continuation lines joined, comments left out."""
    text = (DOCKER / f"{image}.Dockerfile").read_text()
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line)]


def copied(image: str) -> list[str]:
    """Sources that the image copies from the checkout."""
    copies = [rest.split() for word, rest in instructions(image) if word == "COPY" and not rest.startswith("--from=")]
    return [source for parts in copies for source in parts[:-1]]


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path out of the build: the last pattern that matches it or a parent decides."""
    verdict = False
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.removeprefix("!")
        expression = "".join(
            {"**/": "(?:.*/)?", "*": "[^/]*"}.get(p, re.escape(p)) for p in re.split(r"(\*\*/|\*)", pattern)
        )
        if re.fullmatch(f"{expression}(?:/.*)?", path):
            verdict = not line.startswith("!")
    return verdict


@pytest.mark.parametrize("image", IMAGES)
def test_base_images_are_pinned_to_one_patch_release(image: str) -> None:
    bases = [rest.split()[0] for word, rest in instructions(image) if word == "FROM"]
    assert len(bases) == 2
    assert len(set(bases)) == 1, "the virtual environment links to the interpreter of the image it was built on"
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", bases[0])


@pytest.mark.parametrize("image", IMAGES)
def test_image_is_not_root_and_has_a_check(image: str) -> None:
    steps = instructions(image)
    last = steps[max(i for i, (word, _) in enumerate(steps) if word == "FROM") :]
    assert [rest for word, rest in last if word == "USER"] == ["marquee"]
    assert any(word == "RUN" and "--uid 10001 marquee" in rest for word, rest in last)
    assert [rest for word, rest in last if word == "HEALTHCHECK" and "CMD [" in rest]


@pytest.mark.parametrize("image", IMAGES)
def test_nothing_is_fetched_but_hashed_pins(image: str) -> None:
    steps = instructions(image)
    assert not [rest for word, rest in steps if word == "ADD"]
    runs = " && ".join(rest for word, rest in steps if word == "RUN")
    assert not re.search(r"\bcurl\b|\bwget\b|\bapt-get\b|://|latest", runs)
    installs = [step for step in runs.split("&&") if " install " in step]
    assert len(installs) == 4 + 1  # uv, the lock, the build backend, the wheel; and install(1) for the state folder
    uv, lock, backend, wheel = installs[:4]
    assert re.search(r"\buv==\d+\.\d+\.\d+\s*$", uv)
    assert "--require-hashes --no-deps --compile-bytecode" in lock
    assert f"-r requirements/{image}.txt" in lock
    assert "--require-hashes --no-deps" in backend
    assert "--no-deps --compile-bytecode --target /opt/marquee /wheels/" in wheel
    assert " -e " not in runs


@pytest.mark.parametrize("image", IMAGES)
def test_no_secret_in_an_image(image: str) -> None:
    names = [rest for word, rest in instructions(image) if word in ("ENV", "ARG")]
    assert names
    assert not re.search(r"PASSWORD|SECRET|TOKEN|FERNET|CREDENTIAL", " ".join(names))


@pytest.mark.parametrize("image", IMAGES)
def test_copied_sources_exist_and_are_not_ignored(image: str) -> None:
    sources = copied(image)
    assert len(sources) == {"platform": 12, "serving": 9}[image]
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignored(source), source


def test_images_hold_the_packages_meant() -> None:
    assert set(copied("platform")) & PACKAGES == PACKAGES
    assert {"dbt_project", "dags"} <= set(copied("platform"))
    assert (
        set(copied("serving")) - {"requirements/serving.txt", "docker/build.txt", "pyproject.toml", "README.md"}
        == SERVED
    )
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "serving.txt").read_text(), re.MULTILINE))
    assert "bentoml" in pinned
    heavy = {"tensorflow", "tensorflow-cpu", "apache-airflow", "dbt-core", "great-expectations"}
    assert not pinned & heavy


def test_served_packages_import_no_package_that_is_left_out() -> None:
    # The verbs import what they need when they are called; the image is asked for few of them.
    verbs = {ROOT / "marquee" / "cli.py", ROOT / "marquee" / "upkeep.py"}
    files = [path for package in SERVED for path in (ROOT / package).rglob("*.py") if path not in verbs]
    assert len(files) > 10
    for path in files:
        tree = ast.parse(path.read_text())
        names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        assert not {name.split(".")[0] for name in names} & (PACKAGES - SERVED), path


@pytest.mark.parametrize(
    "path",
    [".venv", ".git/config", ".marquee/warehouse.duckdb", ".env", "training/.env", "docker/compose.yml", "tests/unit",
     "marquee/__pycache__/cli.cpython-311.pyc", "dbt_project/target/manifest.json", "requirements/dev.lock"],
)  # fmt: skip
def test_dockerignore_keeps_out(path: str) -> None:
    assert ignored(path)


@pytest.mark.parametrize("path", ["marquee/settings.py", "dags/ingest_events.py", "features/feature_store.yaml"])
def test_dockerignore_lets_in(path: str) -> None:
    assert not ignored(path)
