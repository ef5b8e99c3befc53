"""What towers and the policy are worth on a window later than all they were fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from features.matrix import COUNTS, VISITOR_FIELDS, Floats, Shares, ranker_matrix, seconds
from marquee.settings import Settings
from training import metrics, ope
from training.banner_scores import ProductScores
from training.bundle import Bundle, Context
from training.catalogue import banner_columns
from training.dataset import Dataset, banner_counts, frame_columns, raw_session, session_shares
from training.eligibility import eligible_banners
from training.metrics import bootstrap
from training.towers import Towers, banner_inputs, visitor_inputs

MOST_REQUESTS = 20_000
"""Logged requests that the off-policy estimate replays; evenly spaced over the window when there are more."""


def evaluate_retrieval(
    data: Dataset, towers: Towers, products: ProductScores | None = None, k: int = 10
) -> dict[str, Any]:
    """Recall@k of the clicked banner among all banners eligible at its moment, beside the popular order.

    With ``products`` also of banners by their products, of the original formula for that, and of a blend of towers and
    products; the product model must have seen nothing of the test part.
    """
    clicks = data.split.test[data.clicked[data.split.test]]
    counts = data.frame[list(COUNTS)].to_numpy(np.float64)[clicks]
    inputs = banner_inputs(data.banner_shares, data.catalogue.product_counts, data.catalogue.mean_prices)
    ids = embedding_ids(data)
    vectors = towers.visitor_vectors(visitor_inputs(data.visitor_shares[clicks], counts))
    similarity = (vectors @ towers.banner_vectors(ids, inputs).T).astype(np.float64)
    fit = np.concatenate([data.split.train, data.split.validation])
    clicked = data.clicked[fit].astype(np.float64)
    popular = np.bincount(data.banner_rows[fit], weights=clicked, minlength=len(data.catalogue))
    scores: dict[str, Any] = {"recall": similarity, "recall_popular": np.tile(popular, (len(clicks), 1))}
    if products:
        moments = seconds(data.frame["impressed_at"].to_numpy("datetime64[us]")[clicks])
        lifts, originals = products.scores(data.frame["visitor_id"].to_numpy(str)[clicks], moments)
        blend = similarity + products.settings.weight * lifts
        scores |= {"recall_products": lifts, "recall_original": originals, "recall_blend": blend}
    eligible, target = _eligible_at(data, clicks), data.banner_rows[clicks]
    recalls = {
        name: metrics.recall_at(metrics.full_ranks(one, target, eligible), k) if len(clicks) else 0.0
        for name, one in scores.items()
    }
    mean = float(eligible.sum(axis=1).mean()) if len(clicks) else 0.0
    return {"clicks": len(clicks), "k": k, "eligible": mean} | recalls


def evaluate_policy(data: Dataset, bundle: Bundle, settings: Settings) -> dict[str, Any]:
    """Off-policy value of the bundle's policy at the first position of each logged slate in the test part.

    Only first positions are replayed: there the probability of the logged banner does not depend on any other.
    ``value`` is the self-normalised estimate; ``estimates`` holds every estimator's, None for "cannot say".
    Banner counts stay as they were known when the window began, as a policy deployed then would have had them.
    """
    frame = data.frame.iloc[data.split.test]
    first = (frame["position"].to_numpy() == 0) & frame["propensity"].notna().to_numpy()
    rows = data.split.test[first]
    if not len(rows):
        return {"value": None, "ess": 0.0, "rows": 0, "logged": None, "estimates": {}}
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_REQUESTS)).astype(np.int64))]
    counts = banner_counts(settings, bundle.catalogue, data.split.test_starts_at)
    parts = [_replayed(data, bundle, counts, part) for part in np.array_split(rows, _parts(bundle, len(rows)))]
    target, q_taken, q_target = np.concatenate(parts, axis=1)
    logged = data.frame["propensity"].to_numpy(np.float64)[rows]
    rewards = data.clicked[rows].astype(np.float64)
    visitors = data.frame["visitor_id"].to_numpy(str)[rows]
    value, ess = ope.policy_value(rewards, target, logged, visitors, settings.seed)
    estimates = ope.policy_values(
        ope.LoggedActions(rewards, logged, target, visitors, q_taken, q_target), settings.seed
    )
    mean = bootstrap(metrics.weighted_mean(rewards), visitors, settings.seed)
    return {
        "value": value.as_dict() if value else None,
        "ess": ess,
        "rows": len(rows),
        "logged": mean.as_dict(),
        "mean_weight": float((target / logged).mean()),
        "estimates": {name: one.as_dict() if one else None for name, one in estimates.items()},
    }


def _parts(bundle: Bundle, rows: int) -> int:
    """Into how many to cut the rows, so that the scores of a part fit into memory: one for each draw and banner."""
    draws = 1 if bundle.effects is None else len(bundle.effects)
    return max(1, min(rows, rows * draws // 500))


def embedding_ids(data: Dataset) -> NDArray[np.int64]:
    """[B] row of each banner in the towers' embedding: 0 where the fitted parts never showed it."""
    fit = np.concatenate([data.split.train, data.split.validation])
    ids = np.zeros(len(data.catalogue), dtype=np.int64)
    seen = np.unique(data.banner_rows[fit])
    ids[seen] = seen + 1
    return ids


def request_context(data: Dataset, row: int) -> Context:
    """Where, when and on what that row's impression was shown, and the session until then."""
    values = data.frame.iloc[row]
    at = np.datetime64(values["impressed_at"], "us")
    return Context(values["placement_id"], values["device"], at, raw_session(values))


def raw_visitor(data: Dataset, row: int) -> dict[str, Any] | None:
    """The visitor's features as joined at that row; None when none was known."""
    values = data.frame.iloc[row]
    if values["last_seen_at"] is None or values.isna()["last_seen_at"]:
        return None
    return {name: values[name] for name in VISITOR_FIELDS}


def _replayed(data: Dataset, bundle: Bundle, counts: dict[str, Floats], rows: NDArray[np.int64]) -> Floats:
    """What the bundle would do and expect at the first position of each row's request; [3, n].

    The chance that its policy puts the logged banner first, the ranker's click probability of the logged banner, and
    the mean of its click probabilities under the policy. The ranker, fitted on earlier rows, is the reward model.
    """
    n, size = len(rows), len(bundle.catalogue)
    candidates = _retrieved(data, bundle, rows)
    columns = frame_columns(data.frame.iloc[rows], bundle.encoding)
    repeated = {name: np.repeat(values, size) for name, values in columns.items()}
    banners = {**counts, **banner_columns(bundle.catalogue)}
    repeated |= {name: np.tile(values, n) for name, values in banners.items()}
    repeated["position"] = np.zeros(n * size)
    request, banner = np.repeat(np.arange(n), size), np.tile(np.arange(size), n)
    shares = (
        Shares.of(data.visitor_shares[rows]).rows(request),
        session_shares(data.frame.iloc[rows], bundle.encoding).rows(request),
        Shares.of(bundle.banner_shares).rows(banner),
    )
    matrix = ranker_matrix(repeated, *shares, bundle.encoding.base_rate)
    scores = bundle.ranker.predict(matrix).reshape(n, size)
    appeal = bundle.appeal(scores, np.arange(size), counts).reshape(-1, n, size)  # a row of scores, or a few
    chances = np.zeros((n, size))  # a request without candidates gets no banner, and earns nothing
    for row in np.flatnonzero(candidates.any(axis=1)):
        chances[row] = bundle.policy.chances(appeal[:, row], candidates[row])
    each, own = np.arange(n), data.banner_rows[rows]
    return np.stack([chances[each, own], scores[each, own], (chances * scores).sum(axis=1)])


def _retrieved(data: Dataset, bundle: Bundle, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n, B] the banners that retrieval hands to the ranker."""
    counts = data.frame[list(COUNTS)].to_numpy(np.float64)[rows]
    vectors = bundle.towers.visitor_vectors(visitor_inputs(data.visitor_shares[rows], counts))
    similarity = np.where(_eligible_at(data, rows), vectors @ bundle.banner_vectors.T, -np.inf)
    rank = np.argsort(np.argsort(-similarity, axis=1, kind="stable"), axis=1, kind="stable")
    return np.asarray((rank < bundle.candidates) & np.isfinite(similarity))


def _eligible_at(data: Dataset, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    moments = data.frame["impressed_at"].to_numpy("datetime64[us]")
    placements = data.frame["placement_id"].to_numpy(str)
    result = np.zeros((len(rows), len(data.catalogue)), dtype=bool)
    for place, row in enumerate(rows):
        result[place] = eligible_banners(data.catalogue, placements[row], moments[row])
    return result
