"""Whether a bundle's figures can be believed: its report is its own, not too good to be true, and survives noise."""

from __future__ import annotations

from typing import Final

import duckdb
import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from features.freshness import TTL
from features.matrix import BANNER_COUNTS, RESPONSE_COUNTS, SESSION_COUNTS
from marquee import contract
from marquee.settings import Settings
from training.bundle import Bundle
from training.calibration import calibration_slope
from training.check import Check
from training.dataset import Dataset
from training.metrics import Floats, auc, bootstrap

REPORT_SLACK: Final = 1e-3
"""AUC by which a bundle may differ from its own report: another machine's last digits."""
LEAK_MARGIN: Final = 0.05
"""AUC above a plain model of the same features that only knowledge of the future explains."""
ROBUST_MARGIN: Final = 0.03
"""AUC that noise of a tenth in every number may cost."""
NOISE: Final = 0.1
SLOPE_LIMIT: Final = 2.0
COUNTED_ROWS: Final = 2_000
BANNER_DAYS: Final = 28
"""Window of a banner's counts; they may be served for as long as their view's TTL."""
AHEAD: Final = """
with happened as (
    select banner_id, visitor_id, occurred_at, kind
    from raw.events semi join (select batch_id from raw.batches where status = 'admitted') using (batch_id)
),
asked as (select row_number() over () as n, frame.* from frame),
of_banner as (
    select n, count(*) filter (kind = 'impression') as shown, count(*) filter (kind = 'click') as clicked
    from asked join happened on happened.banner_id = asked.banner_id and occurred_at < impressed_at
        and occurred_at >= impressed_at - to_days($days::integer)
    group by n
),
of_visitor as (
    select n, count(*) filter (kind = 'impression') as shown, count(*) filter (kind = 'click') as clicked,
        count(*) filter (kind in ('page_view', 'product_view')) as viewed,
        count(*) filter (kind = 'cart') as carted, count(*) filter (kind = 'order') as ordered
    from asked join happened on happened.visitor_id = asked.visitor_id and occurred_at < impressed_at
    group by n
)
select count(*) from asked left join of_banner using (n) left join of_visitor using (n)
where banner_impression_count_28d > coalesce(of_banner.shown, 0)
    or banner_click_count_28d > coalesce(of_banner.clicked, 0)
    or visitor_impression_count_365d > coalesce(of_visitor.shown, 0)
    or visitor_click_count_365d > coalesce(of_visitor.clicked, 0)
    or session_view_count > coalesce(of_visitor.viewed, 0)
    or session_cart_count > coalesce(of_visitor.carted, 0)
    or session_order_count > coalesce(of_visitor.ordered, 0)
"""
COUNTED: Final = tuple(
    place
    for place, name in enumerate(contract.RANKER_FEATURES)
    if name.endswith(
        ("_28d", "_count", "_amount", "_price", "_rate", "_ratio", "_match", "_cosine", "_share", "_focus")
    )
)
"""Features that are measured; the others name a place or a time."""


def sound(settings: Settings, data: Dataset, bundle: Bundle) -> list[Check]:
    """The rows of the gate that need the bundle and the later window."""
    rows = data.split.test
    matrix, clicked = data.matrix[rows], data.clicked[rows]
    probabilities = bundle.ranker.predict(matrix)
    measured = auc(clicked, probabilities)
    return [
        _calibration_slope(settings, data, probabilities),
        _own_report(bundle, measured),
        _leakage(data, measured),
        _known_by_then(settings, data),
        _robustness(bundle, matrix, clicked, measured, bundle.manifest["seed"]),
    ]


def _calibration_slope(settings: Settings, data: Dataset, probabilities: Floats) -> Check:
    """A mean that is right can hide that high chances are told too low, and low ones too high."""
    visitors = data.frame["visitor_id"].to_numpy(str)[data.split.test]
    slope = bootstrap(calibration_slope(probabilities, data.clicked[data.split.test]), visitors, settings.seed)
    near = slope.low <= SLOPE_LIMIT and slope.high >= 1 / SLOPE_LIMIT
    about = f"clicks' log-odds on the predicted ones, 1 is right, {slope.low:.2f} to {slope.high:.2f}; above "
    about += f"{SLOPE_LIMIT:g} or below {1 / SLOPE_LIMIT:g} for sure is refused"
    return Check("calibration slope", slope.value, SLOPE_LIMIT, near, about)


def _known_by_then(settings: Settings, data: Dataset) -> Check:
    """No count of a training row may hold more than had happened before its impression, whatever made the rows."""
    spread = np.linspace(0, len(data.frame) - 1, min(COUNTED_ROWS, len(data.frame))).astype(np.int64)
    counts = (*RESPONSE_COUNTS, *BANNER_COUNTS, *SESSION_COUNTS)
    asked = data.frame.iloc[spread][["banner_id", "visitor_id", "impressed_at", *counts]]
    with duckdb.connect(str(settings.warehouse), read_only=True) as connection:
        connection.register("frame", asked.reset_index(drop=True))
        row = connection.execute(
            AHEAD, {"days": BANNER_DAYS + TTL[contract.BANNER_FEATURES_28D.name].days + 1}
        ).fetchone()
    ahead = int(row[0]) if row else 0
    about = f"of {len(spread):,} training rows, those that count more than was logged before their impression"
    return Check("known by then", float(ahead), 0.0, ahead == 0, about)


def _own_report(bundle: Bundle, measured: float) -> Check:
    gap = abs(measured - bundle.report["ranker"]["auc"]["value"])
    about = "AUC measured now against the bundle's report"
    return Check("own report", gap, REPORT_SLACK, gap <= REPORT_SLACK, about)


def _leakage(data: Dataset, measured: float) -> Check:
    """A model that saw the held-out window, or features that did, beats what those features can honestly tell."""
    fit = np.concatenate([data.split.train, data.split.validation])
    plain = {"objective": "binary:logistic", "max_depth": 3, "eta": 0.1, "min_child_weight": 20, "nthread": 2}
    booster = xgb.train(plain, xgb.DMatrix(data.matrix[fit], label=data.clicked[fit]), 60)
    honest = auc(data.clicked[data.split.test], booster.inplace_predict(data.matrix[data.split.test]))
    gain = measured - honest
    about = f"AUC above {honest:.3f}, what a plain model fitted on the earlier rows reaches on the later window"
    return Check("leakage", gain, LEAK_MARGIN, gain <= LEAK_MARGIN, about)


def _robustness(
    bundle: Bundle, matrix: NDArray[np.float32], clicked: NDArray[np.bool_], measured: float, seed: int
) -> Check:
    """Numbers that are a little off may not turn the order round; those that are missing may not break anything."""
    noisy, missing = matrix.copy(), matrix.copy()
    noise = np.random.default_rng(seed).normal(1.0, NOISE, (len(matrix), len(COUNTED)))
    noisy[:, COUNTED] *= noise.astype(matrix.dtype)
    missing[:, COUNTED] = np.nan
    told = bundle.ranker.predict(missing)
    if not (np.isfinite(told) & (told >= 0) & (told <= 1)).all():
        return Check("robustness", None, None, False, "without features it predicts what is no probability")
    loss = measured - auc(clicked, bundle.ranker.predict(noisy))
    about = f"AUC lost when every measured feature is off by a tenth; without any it predicts {told.mean():.3f}"
    return Check("robustness", loss, ROBUST_MARGIN, loss <= ROBUST_MARGIN, about)
