"""How often a banner is clicked, in a context, before anybody knows: from similar banners, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ColdStartSettings:
    """Plain values.

    Attributes:
        sharpness: power of the cosine between two banners' content; higher listens to the most similar only.
        neighbour_prior: impressions at the overall rate that the neighbours' are mixed with.
        content_prior: impressions that what the neighbours say counts beside a banner's own.
        context_prior: impressions at a banner's rate that its own in one context are mixed with.
        confidence: of the interval, between 0 and 1.
    """

    sharpness: float = 4.0
    neighbour_prior: float = 200.0
    content_prior: float = 400.0
    context_prior: float = 400.0
    confidence: float = 0.9


@dataclass(frozen=True, slots=True)
class ClickRates:
    """Click rates of B banners in K contexts: [K, B] each.

    ``mean`` is what to expect; ``low`` and ``high`` bound the rate with the confidence asked for. To choose what is
    best for now order by ``mean``; to learn about the new by ``high`` (optimism: Kaufmann, Cappé and Garivier, "On
    Bayesian upper confidence bounds for bandit problems", AISTATS 2012); to be sure by ``low``.
    """

    mean: Floats
    low: Floats
    high: Floats


def click_rates(
    clicks: Floats, impressions: Floats, content: NDArray[np.float32], settings: ColdStartSettings | None = None
) -> ClickRates:
    """Posterior click rates, from the general to the particular: all, similar content, the banner, it in a context.

    Each level is the prior of the next, worth a number of impressions, so that a banner never shown has the rate of
    banners like it, one never shown in a context its own rate times what the context usually changes, and one shown
    often what it was clicked. Beta posteriors; the levels' priors are means only, so intervals are a little narrow.

    Args:
        clicks: [K, B] in each context.
        impressions: [K, B], none less than its clicks.
        content: [B, F] of the banners, ≥ 0, such as category shares.
        settings: strengths of the priors.
    """
    from scipy.stats import beta

    settings = settings or ColdStartSettings()
    banner_clicks, banner_shown = clicks.sum(axis=0), impressions.sum(axis=0)
    shown = max(1e-12, float(banner_shown.sum()))
    overall = (float(banner_clicks.sum()) + 1e-3) / (shown + 1.0)
    similar = neighbour_rates(banner_clicks, banner_shown, content, overall, settings)
    own = _shrunk(banner_clicks, banner_shown, similar, settings.content_prior)
    context = _shrunk(clicks.sum(axis=1), impressions.sum(axis=1), np.float64(overall), settings.content_prior)
    expected = np.clip(own[None, :] * context[:, None] / overall, 1e-9, 1 - 1e-9)
    mean = _shrunk(clicks, impressions, expected, settings.context_prior)
    # A banner that is new is no better known for its context: its impressions elsewhere carry the prior.
    weight = impressions + np.minimum(settings.context_prior, banner_shown[None, :] + settings.content_prior)
    tail = (1 - settings.confidence) / 2
    bounds = [beta.ppf(q, mean * weight, (1 - mean) * weight) for q in (tail, 1 - tail)]
    return ClickRates(mean, *bounds)


def neighbour_rates(
    clicks: Floats, impressions: Floats, content: NDArray[np.float32], overall: float, settings: ColdStartSettings
) -> Floats:
    """[B] click rate of the other banners, weighted by their impressions and the similarity of their content."""
    norms = np.linalg.norm(content, axis=1, keepdims=True)
    unit = content / np.maximum(norms, 1e-12)
    similarity = np.clip(unit @ unit.T, 0.0, 1.0).astype(np.float64) ** settings.sharpness
    np.fill_diagonal(similarity, 0.0)
    return _shrunk(similarity @ clicks, similarity @ impressions, np.float64(overall), settings.neighbour_prior)


def _shrunk(clicks: Floats, impressions: Floats, rate: Floats | np.float64, prior: float) -> Floats:
    found: Floats = (clicks + prior * rate) / (impressions + prior)
    return found
