"""Challenger against champion on one later window: who ranks better, for whom not, and how much lists would change."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau, norm

from marquee.settings import Settings
from training.baselines import popular
from training.bundle import Bundle
from training.check import Check
from training.dataset import Dataset, banner_counts
from training.evaluation import raw_visitor, request_context
from training.metrics import Estimate, bootstrap, log_losses, weighted_auc, weighted_mean
from training.replayed import encoded
from training.segments import NO_SEGMENT, segments_by_visitor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HARM_MARGIN: Final = 0.01
"""AUC that a challenger may lose on the whole window, as noise; one that surely loses anything is refused too."""
SEGMENT_MARGIN: Final = 0.02
"""AUC that it may lose among the visitors of one segment, where the loss is sure."""
LEAST_CLICKS: Final = 30
"""Clicks below which nothing can be said of a segment."""
LEAST_OVERLAP: Final = 0.1
"""Share of the champion's list below which a challenger is another product, and needs a person's reason."""
TOP: Final = 5
LISTS: Final = 200
POPULAR: Final = "segment harm against popular"
COMPARED: Final = ("not worse than champion", "log loss against champion", "segment harm", "list stability")
"""The rows that compare."""


def compare(settings: Settings, data: Dataset, challenger: Bundle, champion: Bundle) -> list[Check]:
    """The rows of the gate that need both; the window is later than what either was fitted on."""
    rows = _window(data, challenger, champion)
    if not len(rows):
        about = "cannot say: no impression is later than both trainings and of a banner that both know"
        return [Check(name, None, None, True, about) for name in COMPARED]
    own, other = _predicted(data, challenger, rows), _predicted(data, champion, rows)
    return [
        _not_worse(settings, data, rows, own, other),
        _log_loss(settings, data, rows, own, other),
        _segment_harm(settings, data, rows, own, other),
        _list_stability(settings, data, rows, challenger, champion),
    ]


def _not_worse(settings: Settings, data: Dataset, rows: Ints, own: Floats, other: Floats) -> Check:
    if _clicks(data, rows) < LEAST_CLICKS:
        return Check(COMPARED[0], None, None, True, f"cannot say: fewer than {LEAST_CLICKS} clicks in the later window")
    gain = _gain(settings, data, rows, own, other)
    about = f"AUC less the champion's on the same {len(rows):,} later impressions, {_interval(gain)}"
    return Check("not worse than champion", gain.value, -HARM_MARGIN, _is_harmless(gain, HARM_MARGIN), about)


def _log_loss(settings: Settings, data: Dataset, rows: Ints, own: Floats, other: Floats) -> Check:
    """The order may be as good and the probabilities worse; then what is made of them is worse too."""
    clicked, visitors = data.clicked[rows], data.frame["visitor_id"].to_numpy(str)[rows]
    more = log_losses(clicked, own) - log_losses(clicked, other)
    loss = bootstrap(weighted_mean(more), visitors, settings.seed)
    about = f"mean log loss above the champion's on the same impressions, {_interval(loss)}"
    return Check(COMPARED[1], loss.value, 0.0, loss.low <= 0, about)


def against_popular(settings: Settings, data: Dataset, bundle: Bundle) -> Check:
    """The first champion has none to be compared with: the visitors of no segment may be better off without it."""
    rows = _window(data, bundle, bundle)
    if not len(rows):
        return Check(POPULAR, None, None, True, "cannot say: no impression is later than its training")
    fit = np.concatenate([data.split.train, data.split.validation])
    own, other = _predicted(data, bundle, rows), popular(data, fit, rows)
    return _segment_harm(settings, data, rows, own, other, POPULAR)


def _segment_harm(
    settings: Settings, data: Dataset, rows: Ints, own: Floats, other: Floats, name: str = COMPARED[2]
) -> Check:
    """No segment may surely lose more than its margin; a rise of the mean can hide that."""
    segments = _segments(settings, data, rows)
    gains: dict[str, Estimate] = {}
    for segment in np.unique(segments):
        here = segments == segment
        if _clicks(data, rows[here]) >= LEAST_CLICKS:
            gains[str(segment)] = _gain(settings, data, rows[here], own[here], other[here])
    if not gains:
        return Check(name, None, None, True, f"cannot say: no segment has {LEAST_CLICKS} clicks")
    # Of ten segments one is beyond its 95 % interval by chance every other time: the intervals hold all at once.
    wider = float(norm.ppf(1 - 0.025 / len(gains)) / norm.ppf(0.975))
    harmed = [
        segment
        for segment, gain in gains.items()
        if gain.value < -SEGMENT_MARGIN and gain.value + wider * (gain.high - gain.value) < 0
    ]
    worst = min(gains, key=lambda segment: gains[segment].value)
    about = f"least AUC gain of {len(gains)} RFM segments, that of {worst}, {_interval(gains[worst])}"
    about += f"; surely worse: {', '.join(harmed)}" if harmed else ""
    return Check(name, gains[worst].value, -SEGMENT_MARGIN, not harmed, about)


def _list_stability(settings: Settings, data: Dataset, rows: Ints, challenger: Bundle, champion: Bundle) -> Check:
    overlaps, orders = [], []
    spread = np.linspace(0, len(rows) - 1, min(LISTS, len(rows))).astype(np.int64)
    both = [(one, banner_counts(settings, one.catalogue, data.split.test_starts_at)) for one in (challenger, champion)]
    for row in rows[spread]:
        context = request_context(data, row)
        visitor = raw_visitor(data, row)
        mine, theirs = (one.ranking(visitor, counts, context) for one, counts in both)
        if mine and theirs:
            top = min(TOP, len(mine), len(theirs))
            overlaps.append(len({*mine[:top]} & {*theirs[:top]}) / top)
            orders.append(_rank_correlation(mine, theirs))
    if not overlaps:
        return Check("list stability", None, None, True, "cannot say: no request of the window had candidates")
    overlap = float(np.mean(overlaps))
    about = f"mean share of the champion's top {TOP} kept, {len(overlaps)} requests; "
    known = [order for order in orders if not np.isnan(order)]
    about += f"rank correlation {np.mean(known):.2f}" if known else "no rank correlation"
    return Check("list stability", overlap, LEAST_OVERLAP, overlap >= LEAST_OVERLAP, about)


def _rank_correlation(mine: list[str], theirs: list[str]) -> float:
    """Kendall's τ over the banners that both rank; NaN for fewer than two."""
    place = {banner: rank for rank, banner in enumerate(theirs)}
    common = [(rank, place[banner]) for rank, banner in enumerate(mine) if banner in place]
    return float(kendalltau(*zip(*common, strict=True)).statistic) if len(common) > 1 else float("nan")


def _window(data: Dataset, challenger: Bundle, champion: Bundle) -> Ints:
    """Rows of the test part after both bundles' own training, of banners that both know."""
    told = [bundle.report.get("test_starts_at") for bundle in (challenger, champion)]
    start = max([data.split.test_starts_at, *(np.datetime64(moment) for moment in told if moment)])
    known = set(challenger.catalogue.banner_ids) & set(champion.catalogue.banner_ids)
    is_known = np.array([banner in known for banner in data.catalogue.banner_ids])
    rows = data.split.test
    later = data.frame["impressed_at"].to_numpy("datetime64[us]")[rows] >= start
    kept: Ints = rows[later & is_known[data.banner_rows[rows]]]
    return kept


def _predicted(data: Dataset, bundle: Bundle, rows: Ints) -> Floats:
    """[n] click probabilities; each bundle encodes the rows in its own way."""
    frame = data.frame.iloc[rows]
    return bundle.ranker.predict(encoded(bundle, frame, frame["banner_id"]))


def _segments(settings: Settings, data: Dataset, rows: Ints) -> NDArray[np.str_]:
    """[n] the RFM segment of each row's visitor, as it is now."""
    known = segments_by_visitor(settings)
    return np.array([known.get(visitor, NO_SEGMENT) for visitor in data.frame["visitor_id"].to_numpy(str)[rows]])


def _gain(settings: Settings, data: Dataset, rows: Ints, own: Floats, other: Floats) -> Estimate:
    """AUC above the other's, paired: both on the same resampled visitors."""
    clicked, visitors = data.clicked[rows], data.frame["visitor_id"].to_numpy(str)[rows]
    mine, theirs = weighted_auc(clicked, own), weighted_auc(clicked, other)
    return bootstrap(lambda weights: mine(weights) - theirs(weights), visitors, settings.seed)


def _clicks(data: Dataset, rows: Ints) -> int:
    """Clicks, or impressions without one where those are fewer: AUC needs both."""
    clicks = int(data.clicked[rows].sum())
    return min(clicks, len(rows) - clicks)


def _is_harmless(gain: Estimate, margin: float) -> bool:
    return gain.value >= -margin and gain.high >= 0


def _interval(gain: Estimate) -> str:
    return f"95 % interval {gain.low:+.4f} to {gain.high:+.4f}"
