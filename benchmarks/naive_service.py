"""The same answers as the tools' tutorials would have them: FastAPI, Feast's SDK, a data frame, ``predict_proba``.

``uvicorn benchmarks.naive_service:app`` on the installation that ``MARQUEE_HOME`` names. Each request asks Feast for
the visitor's features and for those of all banners, builds a frame of one row a banner, has the same trees predict,
sorts and answers. No caps, no log, no exploration, no reasons.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import xgboost as xgb
from fastapi import FastAPI
from pydantic import BaseModel, Field

from features.matrix import READS
from features.store import open_store
from marquee import contract
from marquee.settings import load_settings
from training import registry

SETTINGS = load_settings()
FOLDER = registry.bundle_folder(SETTINGS, registry.require_champion(SETTINGS))
MANIFEST = json.loads((FOLDER / "manifest.json").read_text(encoding="utf-8"))
CALIBRATION = json.loads((FOLDER / "calibration.json").read_text(encoding="utf-8"))
BANNERS = pd.DataFrame(MANIFEST["catalogue"])
MIXES = [json.loads(text) for text in BANNERS["category_mix"]]
BANNERS["banner_focus"] = [max(mix.values()) for mix in MIXES]
BANNERS["norm"] = [sum(share**2 for share in mix.values()) ** 0.5 for mix in MIXES]
ENCODING = MANIFEST["encoding"]
STORE: Any = open_store(SETTINGS)
MODEL = xgb.XGBClassifier()
MODEL.load_model(FOLDER / "ranker.ubj")
MODEL.set_params(n_jobs=1)
BANNER_ROWS = [{"banner_id": banner} for banner in BANNERS["banner_id"]]
BANNER_VIEW = contract.BANNER_FEATURES_28D.name
BANNER_FIELDS = [f"{BANNER_VIEW}:{field}" for field in READS[BANNER_VIEW]]
VISITOR_FIELDS = [f"{view}:{field}" for view, fields in READS.items() if view != BANNER_VIEW for field in fields]
app = FastAPI()


class RequestContext(BaseModel):
    """What the page knows."""

    device: str = "unknown"
    page: str | None = None
    session_id: str | None = None


class RecommendRequest(BaseModel):
    """Ask for a slate."""

    visitor_id: str
    placement: str
    n: int = Field(3, ge=1, le=50)
    context: RequestContext = RequestContext()


@app.get("/readyz")
def ready() -> dict[str, str]:
    """Whether it is there."""
    return {"status": "ok"}


@app.post("/v1/banners/recommend")
def recommend(request: RecommendRequest) -> dict[str, Any]:
    """The banners of highest predicted probability."""
    who = [{"visitor_id": request.visitor_id}]
    told = STORE.get_online_features(features=VISITOR_FIELDS, entity_rows=who).to_dict()
    visitor = {name: values[0] for name, values in told.items()}
    counts = STORE.get_online_features(features=BANNER_FIELDS, entity_rows=BANNER_ROWS).to_df()
    frame = inputs(visitor, BANNERS.merge(counts, on="banner_id", how="left"), request)
    frame["score"] = MODEL.predict_proba(frame[list(contract.RANKER_FEATURES)])[:, 1]
    best = frame.sort_values("score", ascending=False).head(request.n)
    slate = [
        {"banner_id": row.banner_id, "campaign_id": row.campaign_id, "title": row.title, "position": place}
        | {"score": float(row.score)}
        for place, row in enumerate(best.itertuples())
    ]
    return {"slate": slate}


def inputs(visitor: dict[str, Any], frame: pd.DataFrame, request: RecommendRequest) -> pd.DataFrame:
    """The frame with all columns that the trees were fitted on; what a tutorial has no source for stays empty."""
    now = datetime.now(UTC)
    for name, value in visitor.items():
        if name in contract.RANKER_FEATURES:
            frame[name] = value
    views = visitor["view_count_28d"] or 0.0
    frame["cart_rate"] = (visitor["cart_count_28d"] or 0.0) / (views + 20)
    frame["order_rate"] = (visitor["order_count_28d"] or 0.0) / (views + 20)
    shown = visitor["visitor_impression_count_365d"] or 0.0
    frame["visitor_click_rate"] = (visitor["visitor_click_count_365d"] or 0.0) / (shown + 20)
    seen = visitor["last_seen_at"]
    frame["hours_since_seen"] = (now - seen).total_seconds() / 3600 if seen else None
    affinity = json.loads(visitor["category_affinity"] or "{}")
    match = [sum(share * affinity.get(category, 0.0) for category, share in mix.items()) for mix in MIXES]
    length = sum(share**2 for share in affinity.values()) ** 0.5 or 1.0
    frame["affinity_match"] = match
    frame["affinity_cosine"] = frame["affinity_match"] / (frame["norm"] * length)
    frame["visitor_focus"] = max(affinity.values(), default=None)
    frame["banner_click_rate"] = frame["banner_click_count_28d"] / (frame["banner_impression_count_28d"] + 20)
    frame["placement"] = ENCODING["placements"].index(request.placement)
    frame["device"] = ENCODING["devices"].index(request.context.device)
    frame["position"] = 0
    frame["hour_of_day"], frame["day_of_week"] = now.hour, now.weekday()
    absent = {name: float("nan") for name in contract.RANKER_FEATURES if name not in frame}
    return frame.assign(**absent).astype(dict.fromkeys(contract.RANKER_FEATURES, "float32"))
