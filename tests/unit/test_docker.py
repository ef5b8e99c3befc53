"""The compose files: shape, health, secrets, and Airflow's own names. The container engine is not needed."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from airflow.providers.openlineage.get_provider_info import get_provider_info

from marquee.settings import Settings, quiet_environment

ROOT = Path(__file__).resolve().parents[2]
DOCKER = ROOT / "docker"
SCHEMA = json.loads((DOCKER / "compose.schema.json").read_text())
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
EXPECTED = {
    "postgres", "airflow-init", "airflow-api-server", "airflow-scheduler", "airflow-dag-processor",
    "airflow-triggerer", "scoring", "valkey",
}  # fmt: skip
SECRET = re.compile(r"PASSWORD|SECRET|FERNET_KEY|REDISCLI_AUTH|SQL_ALCHEMY_CONN")
VARIABLE = re.compile(r"(?<!\$)\$\{(\w+)(:[?-])?([^}]*)\}")


def environments() -> list[tuple[str, str, str]]:
    """(service, variable, value) of every service."""
    return [(name, key, value) for name, s in SERVICES.items() for key, value in s.get("environment", {}).items()]


def image_environment(image: str) -> dict[str, str]:
    """The ENV of an image's last stage."""
    last = (DOCKER / f"{image}.Dockerfile").read_text().split("\nFROM ")[-1]
    block = re.search(r"^ENV ((?:.*\\\n)*.*)$", last, re.MULTILINE)
    assert block
    return dict(pair.split("=", 1) for pair in shlex.split(block[1].replace("\\\n", " ")))


def test_the_services_are_the_ones_meant() -> None:
    assert set(SERVICES) == EXPECTED


@pytest.mark.parametrize("name", ["compose.yml", "compose.override.yml"])
def test_file_fits_the_schema(name: str) -> None:
    jsonschema.validate(yaml.safe_load((DOCKER / name).read_text()), SCHEMA)


@pytest.mark.parametrize(
    ("service", "change"),
    [
        ("postgres", {"image": "postgres:latest"}),
        ("postgres", {"image": "registry.example.org/postgres:17.6"}),
        ("postgres", {"privileged": True}),
        ("scoring", {"ports": ["3000:3000"]}),
        ("scoring", {"healtcheck": SERVICES["scoring"]["healthcheck"]}),
        ("scoring", {"volumes": ["../serving:/opt/marquee/serving"]}),
        ("airflow-scheduler", {"depends_on": {"postgres": {"condition": "service_started"}}}),
        ("airflow-scheduler", {"command": "airflow scheduler"}),
    ],
)
def test_schema_refuses(service: str, change: dict[str, Any]) -> None:
    broken = COMPOSE | {"services": SERVICES | {service: SERVICES[service] | change}}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


def test_every_service_is_checked_limited_and_kept_or_runs_once() -> None:
    once = {name for name, service in SERVICES.items() if service["restart"] == "no"}
    assert once == {"airflow-init"}
    checked = {name for name, service in SERVICES.items() if "healthcheck" in service}
    assert checked == EXPECTED - once
    assert {name for name, service in SERVICES.items() if "deploy" in service} == EXPECTED


def test_dependencies_wait_for_what_can_be_waited_for() -> None:
    waits = [(n, t, d["condition"]) for n, s in SERVICES.items() for t, d in s.get("depends_on", {}).items()]
    assert len(waits) == 10
    for name, target, condition in waits:
        ready = "healthcheck" in SERVICES[target] if condition == "service_healthy" else target == "airflow-init"
        assert ready, f"{name} waits for {target} to be {condition}, which it never is"


def test_no_secret_has_a_default() -> None:
    secrets = [(service, key, value) for service, key, value in environments() if SECRET.search(key)]
    secrets = [entry for entry in secrets if "SIMPLE_AUTH" not in entry[1]]
    assert len(secrets) == 5 * 4 + 2  # four secrets for each of the five Airflow services, Postgres, Valkey
    for service, key, value in secrets:
        used = VARIABLE.findall(value)
        assert used, f"{service}: {key} is written in the file"
        assert all(mark == ":?" for _, mark, _ in used), f"{service}: {key} may be empty"


def test_example_names_every_variable_and_holds_no_secret() -> None:
    lines = (ROOT / ".env.example").read_text().splitlines()
    example = dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))
    text = "".join((DOCKER / name).read_text() for name in ("compose.yml", "compose.override.yml"))
    used = {name: mark for name, mark, _ in VARIABLE.findall(text)}
    assert set(used) == set(example)
    assert len(used) == 8
    for name, mark in used.items():
        assert (example[name] == "") == (mark == ":?"), f"{name}: secrets stay empty, everything else has a value"


def test_state_is_one_volume_and_named_volumes_are_declared() -> None:
    mounts = [(n, *v.split(":", 1)) for n, s in SERVICES.items() for v in s.get("volumes", [])]
    assert len(mounts) == 8
    assert {volume for _, volume, _ in mounts} == set(COMPOSE["volumes"])
    state = {(name, path) for name, volume, path in mounts if volume == "state"}
    homes = {image_environment(image)["MARQUEE_HOME"] for image in ("platform", "serving")}
    assert homes == {"/var/lib/marquee"}
    assert state == {(name, "/var/lib/marquee") for name, s in SERVICES.items() if "build" in s}


def test_override_changes_only_known_services_and_mounts_what_exists() -> None:
    override = yaml.safe_load((DOCKER / "compose.override.yml").read_text())["services"]
    assert set(override) < EXPECTED
    mounts = {volume for service in override.values() for volume in service.get("volumes", [])}
    assert len(mounts) == 8
    for mount in mounts:
        source, target, _ = mount.split(":")
        assert (DOCKER / source).is_dir()
        assert target == f"/opt/marquee/{Path(source).name}"


def test_airflow_variables_are_options_of_the_installed_airflow() -> None:
    spec = find_spec("airflow")
    assert spec is not None
    assert spec.submodule_search_locations
    config = Path(spec.submodule_search_locations[0]) / "config_templates" / "config.yml"
    options = {
        f"AIRFLOW__{section}__{option}".upper()
        for section, body in [*yaml.safe_load(config.read_text()).items(), *get_provider_info()["config"].items()]
        for option in body["options"]
    }
    override = yaml.safe_load((DOCKER / "compose.override.yml").read_text())["services"]
    used = {key for _, key, _ in environments()} | set(image_environment("platform"))
    used |= {key for service in override.values() for key in service.get("environment", {})}
    used = {key for key in used if key.startswith("AIRFLOW__")}
    assert len(used) == 20
    assert used - options == set()


def test_images_set_what_the_marquee_command_sets() -> None:
    """The Airflow roles start without the marquee command, so nothing of quiet_environment may be missing."""
    wanted = quiet_environment(Settings(home=Path("/var/lib/marquee")))
    differs = {
        "AIRFLOW__CORE__DAGS_FOLDER": "/opt/marquee/dags",
        "AIRFLOW__API__HOST": "0.0.0.0",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
    }
    wanted |= differs
    given = image_environment("platform") | SERVICES["airflow-scheduler"]["environment"]
    assert {key: given.get(key) for key in wanted} == wanted
    serving = {k: v for k, v in wanted.items() if not k.startswith(("AIRFLOW", "TF_", "GX_", "MLFLOW_"))}
    assert len(serving) == 8
    assert {key: image_environment("serving").get(key) for key in serving} == serving


def test_no_product_setting_is_unknown() -> None:
    """Settings refuse an unknown MARQUEE_ variable, so one here would stop every container."""
    known = {f"MARQUEE_{name.upper()}" for name in Settings.model_fields}
    used = (
        {key for _, key, _ in environments()} | set(image_environment("platform")) | set(image_environment("serving"))
    )
    used = {key for key in used if key.startswith("MARQUEE_")}
    assert used == {"MARQUEE_HOME"}
    assert used <= known


def test_database_drivers_are_locked() -> None:
    """Airflow opens Postgres twice: the named driver, and asyncpg, which it derives from the same URL."""
    url = SERVICES["airflow-scheduler"]["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"]
    assert url.startswith("postgresql+psycopg2://")
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / "requirements" / "platform.txt").read_text(), re.MULTILINE))
    assert len(pinned) > 100
    missing = {"psycopg2-binary", "asyncpg"} - pinned
    assert not missing, f"requirements/platform.txt does not pin {sorted(missing)}: the Airflow roles cannot start"


def test_yaml_is_clean() -> None:
    files = [*sorted(DOCKER.glob("*.yml")), ROOT / ".pre-commit-config.yaml"]
    assert len(files) == 4
    command = [sys.executable, "-m", "yamllint", "--strict", "-c", str(DOCKER / "yamllint.yml"), *map(str, files)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.tools
def test_airflow_understands_every_command(tmp_path: Path) -> None:
    commands = [s["command"][1:] for s in SERVICES.values() if s.get("command", [""])[0] == "airflow"]
    commands += [
        s["healthcheck"]["test"][2:]
        for s in SERVICES.values()
        if s.get("healthcheck", {}).get("test", [])[1:2] == ["airflow"]
    ]
    assert len(commands) == 7
    program = "import json, sys; from airflow.cli.cli_parser import get_parser\n"
    program += "for command in json.loads(sys.argv[1]): get_parser().parse_args(command)"
    environment = {"PATH": "", "HOME": str(tmp_path), "AIRFLOW_HOME": str(tmp_path)}
    for wrong, code in (([], 0), ([["webserver"]], 2)):
        call = [sys.executable, "-c", program, json.dumps(commands + wrong)]
        assert subprocess.run(call, env=environment, capture_output=True, check=False).returncode == code
