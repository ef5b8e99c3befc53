"""What a trained bundle says of its ranker, and one whose slates are drawn for value."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from marquee.monotone import monotone_signs
from marquee.settings import Settings
from training import registry
from training.banner_effects import PRIOR_DEVIATION
from training.bundle import Bundle
from training.calibration import KINDS
from training.pipeline import assemble_bundle, require_latest_bundle
from training.report import summary_lines, write_report

pytestmark = pytest.mark.tools


def test_the_report_has_all_baselines_and_every_placement(installation: Settings) -> None:
    bundle = Bundle.load(registry.bundle_folder(installation, require_latest_bundle(installation)))
    ranker = bundle.report["ranker"]
    for name in ("popular", "logistic", "forest"):
        assert 0.4 < ranker[f"auc_{name}"]["low"] < ranker[f"auc_{name}"]["high"] < 0.8
    for name in ("logistic", "forest"):
        gain = ranker[f"auc_gain_{name}"]
        assert gain["value"] == pytest.approx(ranker["auc"]["value"] - ranker[f"auc_{name}"]["value"])
        assert gain["low"] < gain["value"] < gain["high"]
    placements = ranker["ece_by_placement"]
    assert set(placements) == set(bundle.encoding.placements)
    assert sum(one["rows"] for one in placements.values()) == ranker["rows"]
    assert sum(one["clicks"] for one in placements.values()) == ranker["clicks"]
    assert ranker["calibration"] == bundle.ranker.calibration.kind
    assert ranker["calibration"] in KINDS
    assert bundle.manifest["ranker"] == {"monotone": monotone_signs(installation.monotone), "engine": "local"}
    assert {line.split()[0] for line in summary_lines(bundle.report)} >= {"forest", *placements}


def test_slates_for_value_are_drawn_by_what_clicks_bring(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    settings = copied(tmp_path / "home").model_copy(update={"rank_by": "value"})
    plain = Bundle.load(registry.bundle_folder(settings, require_latest_bundle(settings)))
    tag = assemble_bundle(settings)
    bundle = Bundle.load(registry.bundle_folder(settings, tag))
    values = bundle.manifest["click_values"]
    assert sorted(values) == bundle.catalogue.banner_ids
    assert min(values.values()) > 0
    assert bundle.worth.mean() == pytest.approx(1)
    assert np.ptp(bundle.worth) > 0.05
    assert np.all(plain.worth == 1)
    assert plain.manifest["click_values"] == {}
    page = write_report(settings, tag, bundle.report).read_text(encoding="utf-8")
    assert "reliability plot" in page
    json.dumps(bundle.manifest, allow_nan=False)


@pytest.mark.parametrize(("heads", "optimism", "name"), [(8, 0.0, "thompson"), (0, 1.0, "ucb")])
def test_a_bundle_explores_by_what_is_not_known_of_its_banners(
    copied: Callable[[Path], Settings], tmp_path: Path, heads: int, optimism: float, name: str
) -> None:
    settings = copied(tmp_path / "home")
    plain = Bundle.load(registry.bundle_folder(settings, require_latest_bundle(settings)))
    assert "banner_effects" not in plain.manifest
    assert not {"heads", "optimism"} & set(plain.manifest["policy"])
    tag = assemble_bundle(settings.model_copy(update={"heads": heads, "optimism": optimism}))
    bundle = Bundle.load(registry.bundle_folder(settings, tag))
    added = {"heads": heads} if heads else {"optimism": optimism}
    assert bundle.manifest["policy"] == plain.manifest["policy"] | added | {"name": name}
    unchanged = {key: value for key, value in bundle.manifest.items() if key not in ("policy", "banner_effects")}
    assert unchanged == {key: value for key, value in plain.manifest.items() if key != "policy"}
    assert bundle.effects is not None
    assert bundle.effects.shape == (heads or 1, len(bundle.catalogue))
    deviation = np.array(bundle.manifest["banner_effects"]["deviation"])
    shown = np.array([banner != "" for banner in bundle.manifest["banners_seen"]])
    assert np.all(deviation[~shown] == PRIOR_DEVIATION)
    assert np.all(deviation[shown] < PRIOR_DEVIATION)
    policy, before = bundle.report["policy"], plain.report["policy"]
    assert policy["rows"] == before["rows"]
    assert policy["estimates"]["dm"] != before["estimates"]["dm"]
    assert bundle.report["ranker"] == plain.report["ranker"]
    assert bundle.report["reference"]["requests"] == plain.report["reference"]["requests"]
