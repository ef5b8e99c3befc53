"""Which banners may be shown, as a mask over the catalogue's arrays. Pure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.catalogue import Catalogue


def eligible_banners(catalogue: Catalogue, placement_id: str, at: np.datetime64) -> NDArray[np.bool_]:
    """[B] True where the campaign is active and running at that moment and the banner may stand there.

    A campaign runs from ``starts_at`` up to, not including, ``ends_at``. A banner without placements fits any.
    """
    fits = np.array([not places or placement_id in places for places in catalogue.placements], dtype=bool)
    mask: NDArray[np.bool_] = catalogue.is_active & (catalogue.starts_at <= at) & (at < catalogue.ends_at) & fits
    return mask
