"""The verb for what marketers manage, without a service: list, show, apply a file, export one, and the audit."""

from __future__ import annotations

import getpass
import json
import uuid
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError

from marquee import console
from marquee.catalogue import KINDS
from marquee.errors import BundleError, MarqueeError
from marquee.options import Home, Json
from marquee.options import command_settings as _settings
from marquee.settings import Settings

Action = Literal["list", "show", "apply", "export", "audit"]
DELETE = "delete"


def catalogue(
    action: Annotated[Action, typer.Argument(help="list KIND, show KIND ID, apply FILE.json, export, or audit.")],
    words: Annotated[list[str] | None, typer.Argument(help="What the action is about.")] = None,
    cascade: Annotated[bool, typer.Option("--cascade", help="Delete a deleted campaign's banners too.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="Entries of the audit.")] = 20,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show and change the managed catalogue; a running service follows within a second."""
    settings = _settings(home, existing=True)
    from ingestion.catalogue_store import open_catalogue_store

    given = words or []
    needed = {"list": ["KIND"], "show": ["KIND", "ID"], "apply": ["FILE.json"]}.get(action, [])
    if len(given) != len(needed):
        raise MarqueeError(f"write it as: marquee catalogue {' '.join([action, *needed])}")
    if action in ("list", "show") and given[0] not in KINDS:
        raise MarqueeError(f"{given[0]!r} is not one of {', '.join(KINDS)}")
    with closing(open_catalogue_store(settings)) as store:
        if action == "apply":
            _apply(settings, store, Path(given[0]), cascade, as_json)
        elif action == "export":
            console.show(_exported(store), [json.dumps(_exported(store), indent=1, ensure_ascii=False)], as_json)
        elif action == "audit":
            _audit(store, limit, as_json)
        else:
            _show(settings, store, given[0], given[1:], as_json)


def read_changes(file: Path) -> list[Any]:
    """The changes that a file describes, as ``Change``s: records by kind, and under "delete" ids by kind.

    Raises:
        MarqueeError: it is no JSON of that form; the message names the kind, the place and the field.
    """
    from ingestion.catalogue_store import ID_FIELDS, Change

    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise MarqueeError(f"{file}: not valid JSON: {error}") from None
    deleted = told.pop(DELETE, {}) if isinstance(told, dict) else None
    changes = []
    for kind, rows in _by_kind(file, told):
        for place, row in enumerate(rows):
            try:
                record = KINDS[kind].model_validate(row)
            except ValidationError as error:
                first = error.errors()[0]
                field = ".".join(map(str, (kind, place, *first["loc"])))
                raise MarqueeError(f"{file}: {field}: {first['msg']}") from None
            changes.append(Change(kind, getattr(record, ID_FIELDS[kind]), record))
    return changes + [Change(kind, str(key), None) for kind, keys in _by_kind(file, deleted) for key in keys]


def _by_kind(file: Path, told: Any) -> list[tuple[str, list[Any]]]:
    if not isinstance(told, dict) or not all(isinstance(rows, list) for rows in told.values()):
        raise MarqueeError(f"{file}: expected an object of lists by kind, such as `marquee catalogue export` writes")
    if unknown := sorted(set(told) - set(KINDS)):
        raise MarqueeError(f"{file}: {unknown[0]!r} is not one of {', '.join(KINDS)}, {DELETE}")
    return list(told.items())


def _apply(settings: Settings, store: Any, file: Path, cascade: bool, as_json: bool) -> None:
    changes = read_changes(file)
    request_id = f"apply-{uuid.uuid4().hex[:12]}"
    version = store.change(changes, getpass.getuser(), request_id, _known(settings), cascade)
    lines = [f"made {len(changes):,} changes; the catalogue has version {version}"]
    console.show({"version": version, "changes": len(changes), "request_id": request_id}, lines, as_json)


def _exported(store: Any) -> dict[str, Any]:
    """What is managed, in the form that ``apply`` takes."""
    managed = store.read()
    told: dict[str, Any] = {
        kind: [record.model_dump(mode="json") for _, record in sorted(managed.records[kind].items())] for kind in KINDS
    }
    return told | {DELETE: {kind: sorted(managed.deleted[kind]) for kind in KINDS}}


def _audit(store: Any, limit: int, as_json: bool) -> None:
    entries = store.audit(limit)
    columns = ["seq", "at", "by", "request_id", "kind", "id"]
    rows = [[*(entry[name] for name in columns), _what(entry)] for entry in entries]
    lines = [console.table("", [*columns, "change"], rows)] if rows else ["nothing was ever changed"]
    console.show({"entries": entries}, lines, as_json)


def _what(entry: dict[str, Any]) -> str:
    before, after = entry["before"], entry["after"]
    if before is None or after is None:
        return "deleted" if after is None else "created"
    return ", ".join(sorted(name for name in after if before.get(name) != after[name])) or "nothing"


def _show(settings: Settings, store: Any, kind: str, ids: list[str], as_json: bool) -> None:
    from serving.live_catalogue import effective

    managed = store.read()
    records = effective(_known(settings), managed)[kind]
    if not ids:
        own = managed.versions[kind]
        rows = [
            {"id": key, "title": getattr(records[key], "title", None) or "", "version": own.get(key, 0)}
            for key in sorted(records)
        ]
        cells: list[list[object]] = [[row["id"], row["title"], row["version"] or "warehouse"] for row in rows]
        console.show({kind: rows}, [console.table("", ["id", "title", "version"], cells)], as_json)
        return
    if ids[0] not in records:
        raise MarqueeError(f"there is none of {kind} called {ids[0]!r}; marquee catalogue list {kind} shows all")
    told = records[ids[0]].model_dump(mode="json", warnings=False)
    console.show(told, [json.dumps(told, indent=1, ensure_ascii=False)], as_json)


def _known(settings: Settings) -> Any:
    """What the champion and the warehouse's export know; only products where nothing was promoted yet."""
    from features.products import ShopProducts
    from serving.live_catalogue import base_records
    from training import registry
    from training.catalogue import Catalogue

    try:
        base = registry.load_bundle(settings, registry.require_champion(settings)).catalogue
    except BundleError:
        base = Catalogue.from_rows([])
    return base_records(base, ShopProducts(settings).now())
