"""Bundles in the BentoML store, and the append-only record of what each of them is for (docs/adr/0004)."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import reduce
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
    """One line of the record: what became of which bundle, when (UTC), by whom, why, and on what evidence.

    ``action`` is one of "promoted", "refused", "rolled back", "shadow", "shadow ended", "canary", "canary ended";
    ``share`` is a canary's of the visitors.
    """

    tag: str
    action: str
    at: str
    by: str
    reason: str
    checks: list[dict[str, Any]]
    share: float | None = None


@dataclass(frozen=True, slots=True)
class Roles:
    """Which bundle answers, which answers a share of the visitors, and which is scored beside them, unseen."""

    champion: str | None = None
    canary: str | None = None
    share: float = 0.0
    shadow: str | None = None

    def after(self, line: Promotion) -> Roles:
        """The roles once that line is in the record."""
        match line.action:
            case "promoted":
                kept = self if line.tag != self.canary else replace(self, canary=None, share=0.0)
                return replace(kept, champion=line.tag, shadow=None if line.tag == self.shadow else self.shadow)
            case "rolled back":
                # Whoever rolls back wants what is known to be good, for everybody.
                return replace(self, champion=line.tag, canary=None, share=0.0)
            case "canary":
                return replace(self, canary=line.tag, share=line.share or 0.0)
            case "canary ended":
                return replace(self, canary=None, share=0.0)
            case "shadow" | "shadow ended":
                return replace(self, shadow=line.tag if line.action == "shadow" else None)
        return self


def store_bundle(settings: Settings, folder: Path) -> str:
    """Put a bundle into the model store and register what it reads; returns its tag.

    The same content gets the same tag and is stored once.
    """
    from training.bundle import bundle_files, content_hash

    version = content_hash(folder)
    tag = f"{NAME}:{version}"
    models = _models(settings)
    if not any(str(model.tag) == tag for model in models.list()):
        with models.create(tag, metadata=_headline(folder)) as model:
            for name in bundle_files(folder):
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
    values = asdict(promotion) | {"checks": json.dumps(promotion.checks)}
    with _connect(settings) as connection:
        names, places = ", ".join(values), ", ".join(f":{name}" for name in values)
        connection.execute(f"insert into promotions ({names}) values ({places})", values)  # noqa: S608 - own names


def history(settings: Settings) -> list[Promotion]:
    """Every line, oldest first."""
    if not settings.registry.exists():
        return []
    with _connect(settings) as connection:
        columns = "tag, action, at, by, reason, checks, share"
        rows = connection.execute(f"select {columns} from promotions order by id").fetchall()  # noqa: S608 - own names
    return [
        Promotion(tag, action, at, by, why, json.loads(checks), share)
        for tag, action, at, by, why, checks, share in rows
    ]


def roles(settings: Settings) -> Roles:
    """What the record says now. Without the checks: the service asks every second."""
    if not settings.registry.exists():
        return Roles()
    with _connect(settings) as connection:
        rows = connection.execute("select tag, action, at, by, reason, share from promotions order by id").fetchall()
    lines = (Promotion(tag, action, at, by, why, [], share) for tag, action, at, by, why, share in rows)
    return reduce(Roles.after, lines, Roles())


def champion(settings: Settings) -> str | None:
    """Tag of the bundle in force, or None before the first promotion."""
    return roles(settings).champion


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
                "action text not null, at text not null, by text not null, reason text not null, checks text not null, "
                "share real)"
            )
            # A record begun before there were canaries has no such column.
            if "share" not in {row[1] for row in connection.execute("pragma table_info(promotions)")}:
                with suppress(sqlite3.OperationalError):  # another process may have added it since
                    connection.execute("alter table promotions add column share real")
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
