"""The setting that says which way probabilities may go."""

from __future__ import annotations

from pathlib import Path

import pytest

from marquee import contract
from marquee.errors import SettingsError
from marquee.monotone import monotone_signs
from marquee.settings import Settings, load_settings


def test_signs_by_name() -> None:
    assert monotone_signs("banner_click_rate:+, position:-") == {"banner_click_rate": 1, "position": -1}
    assert monotone_signs("") == {}


def test_the_default_names_features_that_there_are() -> None:
    signs = monotone_signs(Settings().monotone)
    assert set(signs) < set(contract.RANKER_FEATURES)
    assert signs["position"] == -1, "nobody looks more at a lower place"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("position", "'position' is not feature:+ or feature:-"),
        ("position:up", "'position:up' is not"),
        ("shoe_size:+", "no feature 'shoe_size'; it has view_count_28d, "),
        ("device:+", "device has no order"),
        ("position:-,position:-", "position is named twice"),
    ],
)
def test_a_bad_one_is_one_line(text: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARQUEE_MONOTONE", text)
    with pytest.raises(SettingsError) as error:
        load_settings()
    assert told in str(error.value)
    assert str(error.value).startswith("setting monotone: ")
    assert "\n" not in str(error.value)
