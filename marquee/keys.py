"""The verb that makes, lists, rotates and revokes API keys."""

from __future__ import annotations

import getpass
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import typer

from marquee import console
from marquee.errors import MarqueeError
from marquee.options import Home, Json
from marquee.options import command_settings as _settings

Action = Literal["create", "list", "rotate", "revoke"]


def keys(
    action: Annotated[Action, typer.Argument(help="create, list, rotate or revoke.")],
    name: Annotated[str | None, typer.Argument(help="The key's name: who uses it, and for what.")] = None,
    scope: Annotated[
        list[str] | None,
        typer.Option(help="What a new key may do: recommend, ingest, read, manage or admin; repeatable."),
    ] = None,
    expires: Annotated[
        float | None, typer.Option(min=0, help="Days after which a new key ends; never if not given.")
    ] = None,
    grace: Annotated[
        float, typer.Option(min=0, help="Minutes for which a rotated key is valid beside the new one.")
    ] = 60,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Make, list, rotate or revoke API keys; a running service follows within a second. A key is shown only once."""
    settings = _settings(home, existing=True)
    from serving.keys import KeyStore

    store = KeyStore(settings.keys)
    if action == "list":
        _show(store.all(), as_json)
        return
    if not name:
        raise MarqueeError(f"say which key to {action}: marquee keys {action} NAME")
    who = getpass.getuser()
    if action == "revoke":
        count = store.revoke(name, who)
        console.show({"name": name, "revoked": count}, [f"{name} is revoked"], as_json)
        return
    if action == "create":
        seconds = expires * 86_400 if expires is not None else None
        key = store.create(name, frozenset(scope or ()), who, seconds)
    else:
        key = store.rotate(name, grace * 60, who)
    console.show({"name": name, "key": key}, [key], as_json)


def _show(found: list[Any], as_json: bool) -> None:
    now = time.time()
    rows = [
        {
            "name": key.name,
            "prefix": f"mq_{key.prefix}",
            "scopes": sorted(key.scopes),
            "state": key.state(now),
            "created_at": _moment(key.created_at),
            "expires_at": _moment(key.expires_at),
            "used_at": _moment(key.used_at),
        }
        for key in found
    ]
    columns = ["name", "prefix", "scopes", "state", "created", "expires", "last used"]
    cells = [[",".join(v) if isinstance(v, list) else v or "–" for v in row.values()] for row in rows]
    lines = [console.table("", columns, cells)] if rows else ["no key was made: only this machine may use the service"]
    console.show({"keys": rows}, lines, as_json)


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
