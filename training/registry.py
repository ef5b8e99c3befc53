"""Bundles in the BentoML store, and the append-only record of which of them is champion (docs/adr/0004)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.services import register_service, service_name
from marquee.errors import BundleError
from marquee.settings import Settings

if TYPE_CHECKING:  # the service's parent process asks who is champion, and needs no XGBoost for it
    from training.bundle import Bundle

NAME = "banner_bundle"


@dataclass(frozen=True, slots=True)
class Promotion:
    """One line of the record: which bundle became champion, when (UTC), by whom, why, and on what evidence."""

    tag: str
    action: str
    at: str
    by: str
    reason: str
    checks: list[dict[str, Any]]


def store_bundle(settings: Settings, folder: Path) -> str:
    """Put a bundle into the model store and register what it reads; returns its tag.

    The same content gets the same tag and is stored once.
    """
    from training.bundle import FILES, content_hash

    version = content_hash(folder)
    tag = f"{NAME}:{version}"
    models = _models(settings)
    if not any(str(model.tag) == tag for model in models.list()):
        with models.create(tag, metadata=_headline(folder)) as model:
            for name in FILES:
                shutil.copyfile(folder / name, model.path_of(name))
    reads = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["feature_service"]
    register_service(settings, feature_service_name(tag), reads)
    return tag


def feature_service_name(tag: str) -> str:
    """The feature service that lists what a bundle reads."""
    return service_name(tag.partition(":")[2])


def bundle_folder(settings: Settings, tag: str) -> Path:
    """Where a stored bundle lies.

    Raises:
        BundleError: no such bundle, or its content is not what its tag says.
    """
    from bentoml.exceptions import BentoMLException

    from training.bundle import FILES, content_hash

    try:
        folder = Path(_models(settings).get(tag).path)
    except BentoMLException:
        stored = ", ".join(bundles(settings)) or "none"
        raise BundleError(f"no bundle {tag!r} in the store; stored: {stored}") from None
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise BundleError(f"bundle {tag}: {missing[0]} is missing from the store")
    if content_hash(folder) != tag.partition(":")[2]:
        raise BundleError(f"bundle {tag}: its files were changed after it was stored; roll back to another")
    return folder


def load_bundle(settings: Settings, tag: str) -> Bundle:
    """Read a stored bundle."""
    from training.bundle import Bundle

    return Bundle.load(bundle_folder(settings, tag))


def bundles(settings: Settings) -> list[str]:
    """Tags in the store, oldest first."""
    models = [model for model in _models(settings).list() if model.tag.name == NAME]
    return [str(model.tag) for model in sorted(models, key=lambda model: model.info.creation_time)]


def record(settings: Settings, promotion: Promotion) -> None:
    """Append a line; durable when this returns."""
    with _connect(settings) as connection:
        connection.execute(
            "insert into promotions (tag, action, at, by, reason, checks) values (?, ?, ?, ?, ?, ?)",
            (
                promotion.tag,
                promotion.action,
                promotion.at,
                promotion.by,
                promotion.reason,
                json.dumps(promotion.checks),
            ),
        )


def history(settings: Settings) -> list[Promotion]:
    """Every line, oldest first."""
    if not settings.registry.exists():
        return []
    with _connect(settings) as connection:
        rows = connection.execute("select tag, action, at, by, reason, checks from promotions order by id").fetchall()
    return [Promotion(tag, action, at, by, why, json.loads(checks)) for tag, action, at, by, why, checks in rows]


def champion(settings: Settings) -> str | None:
    """Tag of the bundle in force, or None before the first promotion."""
    in_force = [line.tag for line in history(settings) if line.action in ("promoted", "rolled back")]
    return in_force[-1] if in_force else None


def require_champion(settings: Settings) -> str:
    """Tag of the bundle in force.

    Raises:
        BundleError: no bundle has been promoted yet.
    """
    tag = champion(settings)
    if tag is None:
        raise BundleError("no bundle has been promoted yet: run `marquee train`, then `marquee promote`")
    return tag


def roll_back(settings: Settings, by: str, reason: str, at: datetime) -> str:
    """Make the champion before the present one champion again; returns its tag.

    Raises:
        BundleError: there is none before it.
    """
    reign: list[str] = []
    for line in history(settings):
        if line.action == "promoted":
            reign = [tag for tag in reign if tag != line.tag] + [line.tag]
        elif line.action == "rolled back":
            reign.pop()
    if len(reign) < 2:
        raise BundleError("nothing to roll back to: no earlier champion")
    bundle_folder(settings, reign[-2])
    record(settings, Promotion(reign[-2], "rolled back", at.isoformat(timespec="seconds"), by, reason, []))
    return reign[-2]


@contextmanager
def _connect(settings: Settings) -> Iterator[sqlite3.Connection]:
    settings.registry.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(settings.registry, timeout=10)
    try:
        with connection:
            connection.execute(
                "create table if not exists promotions (id integer primary key, tag text not null, "
                "action text not null, at text not null, by text not null, reason text not null, checks text not null)"
            )
            yield connection
    finally:
        connection.close()


def _models(settings: Settings) -> Any:
    os.environ["BENTOML_HOME"] = str(settings.bentos)
    os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
    store = settings.bentos / "models"
    store.mkdir(parents=True, exist_ok=True)
    from bentoml import models
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    # BentoML reads its home once, when it is first imported; another installation's store must not be used for this.
    BentoMLContainer.model_store.set(ModelStore(str(store)))
    return models


def _headline(folder: Path) -> dict[str, Any]:
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {"auc": report["ranker"]["auc"]["value"], "snapshot": report["snapshot"]}
