"""Settings: environment over file, unknown keys named, nothing changeable afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from marquee.errors import SettingsError
from marquee.settings import Settings, load_settings, quiet_environment


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_environment_wins_over_file_and_arguments_over_both(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("marquee.toml").write_text('seed = 3\nevents = 2000\nhome = "state"\n')
    monkeypatch.setenv("MARQUEE_EVENTS", "5000")
    settings = load_settings(seed=9)
    assert (settings.seed, settings.events, settings.home) == (9, 5000, Path.cwd() / "state")


def test_unknown_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARQUEE_SEDE", "3")
    with pytest.raises(SettingsError, match=r"MARQUEE_SEDE.*MARQUEE_SEED"):
        load_settings()


def test_unknown_key_in_the_file_is_named() -> None:
    Path("marquee.toml").write_text("sede = 3\n")
    with pytest.raises(SettingsError, match=r"marquee\.toml.*'sede'"):
        load_settings()


@pytest.mark.parametrize(("text", "word"), [("seed = -1", "seed"), ("seed = ", "TOML"), ("events = 3", "events")])
def test_bad_values_are_one_clear_error(text: str, word: str) -> None:
    Path("marquee.toml").write_text(text)
    with pytest.raises(SettingsError, match=word):
        load_settings()


def test_of_two_ways_to_explore_banners_one_can_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARQUEE_HEADS", "16")
    assert (load_settings().heads, load_settings().optimism) == (16, 0.0)
    monkeypatch.setenv("MARQUEE_OPTIMISM", "1")
    with pytest.raises(SettingsError, match=r"^setting optimism: .*optimism and heads are two ways to explore"):
        load_settings()
    monkeypatch.setenv("MARQUEE_HEADS", "0")
    assert load_settings().optimism == 1.0


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_settings().seed = 4  # type: ignore[misc]


def test_every_tool_has_its_telemetry_off() -> None:
    environment = quiet_environment(Settings())
    expected = {
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "FEAST_USAGE": "False",
        "GX_ANALYTICS_ENABLED": "false",
        "OTEL_SDK_DISABLED": "true",
    }
    assert expected.items() <= environment.items()
