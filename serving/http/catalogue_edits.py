"""Reading and changing the catalogue for one HTTP request: versions, patches, and the store's errors as problems."""

from __future__ import annotations

import base64
import heapq
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final, cast

from fastapi import Request
from pydantic import ValidationError

from ingestion.catalogue_store import (
    CatalogueRefused,
    CatalogueStore,
    CatalogueStoreError,
    Change,
    Fault,
    StillInUse,
    UnknownReference,
)
from marquee.catalogue import Product, Record
from serving.http.catalogue_bodies import Asked, Bulk, Kind
from serving.http.problems import Problem, invalid, invalid_body
from serving.live_catalogue import Live, effective

ATTEMPTS: Final = 20


class Edits:
    """The catalogue as the store has it now, and the changes that one request makes to it."""

    def __init__(self, request: Request) -> None:
        worker = request.app.state.worker
        self._store: CatalogueStore = worker.catalogue_store
        self._live: Live = worker.live()
        self._by, self._request_id = _actor(request)
        self.refresh()

    def refresh(self) -> None:
        """Look again: this worker may be behind the store by a moment."""
        with answered():
            is_current = self._store.version() == self._live.version
            self._managed = self._live.managed if is_current else self._store.read()
        self._records = None if is_current else effective(self._live.base, self._managed)

    def records(self, kind: str) -> Mapping[str, Record]:
        """Records in force, by id."""
        found = getattr(self._live, kind) if self._records is None else self._records[kind]
        return cast(Mapping[str, Record], found)

    def version(self, kind: Kind, key: str) -> int:
        """Of one record; 0 for the warehouse's own."""
        return self._managed.versions[kind.name].get(key, 0)

    def put(self, kind: Kind, key: str, record: Record, if_match: str | None) -> tuple[int, bool]:
        """Put a record there; its version, and whether it is new."""
        is_new = key not in self.records(kind.name)
        expected = self._expected(kind, key, if_match)
        if (named := getattr(record, kind.id_field)) != key:
            message = f"{kind.id_field} is {named!r}, but the path says {key!r}"
            raise invalid(_errors(kind.id_field, message))
        return self._change([Change(kind.name, key, record, expected)]), is_new

    def patch(self, kind: Kind, key: str, body: Mapping[str, Any], if_match: str | None) -> tuple[Record, int]:
        """Merge a patch into a record (RFC 7396); the record now in force and its version.

        Without ``If-Match`` a change made meanwhile is kept, and the patch merged into what it left.
        """
        for _ in range(ATTEMPTS):
            expected = self._expected(kind, key, if_match)
            record = _patched(kind, self._own(kind, key), body)
            version = self.version(kind, key) if expected is None else expected
            try:
                with answered():
                    self._store_change([Change(kind.name, key, record, version)])
            except Problem as problem:
                if problem.status != 412 or if_match is not None:
                    raise
                self.refresh()
                continue
            self.refresh()
            return self.records(kind.name).get(key, record), self.version(kind, key)
        raise Problem(409, f"{kind.word} {key!r} changes all the time; send the patch again")

    def delete(self, kind: Kind, key: str, if_match: str | None, cascade: bool) -> None:
        """Delete a record, the warehouse's too."""
        expected = self._expected(kind, key, if_match)
        if key not in self.records(kind.name):
            raise missing(kind, key)
        self._change([Change(kind.name, key, None, expected)], cascade)

    def bulk(self, kind: Kind, body: Bulk[Any], cascade: bool) -> int:
        """Make all of these changes; the version that they have."""
        changes = [Change(kind.name, getattr(record, kind.id_field), record) for record in body.upsert]
        changes += [Change(kind.name, key, None) for key in body.delete]
        names = [f"upsert[{place}].{kind.id_field}" for place in range(len(body.upsert))]
        names += [f"delete[{place}]" for place in range(len(body.delete))]
        seen: set[str] = set()
        faults = []
        for place, change in enumerate(changes):
            if change.id in seen:
                faults.append({"field": names[place], "message": f"{kind.word} {change.id!r} is named twice"})
            elif change.record is None and change.id not in self.records(kind.name):
                faults.append({"field": names[place], "message": f"there is no {kind.word} {change.id!r}"})
            seen.add(change.id)
        if faults:
            raise invalid(faults)
        return self._change(changes, cascade, len(body.upsert))

    def _own(self, kind: Kind, key: str) -> Record:
        """What a patch is merged into. What is left to the warehouse stays so: else its news would be shut out."""
        if (own := self._managed.records[kind.name].get(key)) is not None:
            return own
        if (found := self.records(kind.name).get(key)) is None:
            raise missing(kind, key)
        if kind.name == "banners":
            return found.model_copy(update={"product_ids": ()})
        return Product(product_id=key) if kind.name == "products" else found

    def _expected(self, kind: Kind, key: str, if_match: str | None) -> int | None:
        """The version that ``If-Match`` asks for; None where it asks for none."""
        if if_match is None:
            return None
        version, is_there = self.version(kind, key), key in self.records(kind.name)
        tags = {tag.strip() for tag in if_match.split(",")}
        if not is_there or not tags & {"*", f'"{version}"'}:
            now = f'its ETag is "{version}"' if is_there else "it is not there"
            message = f"{kind.word} {key!r}: {now}, If-Match says {if_match}"
            raise Problem(412, message, _errors("If-Match", message))
        return version

    def _change(self, changes: Sequence[Change], cascade: bool = False, upserts: int | None = None) -> int:
        with answered(upserts):
            return self._store_change(changes, cascade)

    def _store_change(self, changes: Sequence[Change], cascade: bool = False) -> int:
        return self._store.change(changes, self._by, self._request_id, self._live.base, cascade)


@contextmanager
def answered(upserts: int | None = None) -> Iterator[None]:
    """The store's errors as problems; in a bulk change of so many upserts they name the place."""
    try:
        yield
    except CatalogueRefused as error:
        errors = [{"field": _field(fault, upserts), "message": fault.message} for fault in error.faults]
        if isinstance(error, UnknownReference):
            raise invalid(errors) from None
        raise Problem(409 if isinstance(error, StillInUse) else 412, str(error), errors) from None
    except CatalogueStoreError as error:
        raise Problem(503, str(error), headers={"Retry-After": "1"}) from None


def missing(kind: Kind, key: str) -> Problem:
    """Told to who asks for what there is not."""
    return Problem(404, f"there is no {kind.word} {key!r}")


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396: members of the patch replace those of the target, null takes them away, objects are merged."""
    if not isinstance(patch, Mapping):
        return patch
    merged = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge_patch(merged.get(name), value)
    return merged


def page_of(records: Mapping[str, Record], asked: Asked) -> tuple[list[Record], int, str | None]:
    """Records of one page by id, how many fit in all, and the last id when more follow."""
    after = _after(asked.cursor)
    fitting = asked.among(records)
    following = heapq.nsmallest(asked.limit + 1, (key for key in fitting if after is None or key > after))
    shown = following[: asked.limit]
    return [records[key] for key in shown], len(fitting), shown[-1] if len(following) > len(shown) else None


def cursor_of(key: str | None) -> str | None:
    """A cursor that continues after a record."""
    return None if key is None else base64.urlsafe_b64encode(key.encode()).decode()


def _after(cursor: str | None) -> str | None:
    try:
        return None if cursor is None else base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except ValueError:
        message = "cursor is none that a page gave; leave it out to begin anew"
        raise invalid(_errors("cursor", message)) from None


def _patched(kind: Kind, record: Record, patch: Mapping[str, Any]) -> Record:
    try:
        return kind.model.model_validate(merge_patch(record.model_dump(mode="json", warnings=False), patch))
    except ValidationError as error:
        raise invalid_body(error) from None
    except RecursionError:
        raise invalid(_errors("", "the patch is too deeply nested")) from None


def _field(fault: Fault, upserts: int | None) -> str:
    if upserts is None:
        return fault.field
    is_upsert = fault.index < upserts
    return f"upsert[{fault.index}].{fault.field}" if is_upsert else f"delete[{fault.index - upserts}]"


def _errors(field: str, message: str) -> list[dict[str, str]]:
    return [{"field": field, "message": message}]


def _actor(request: Request) -> tuple[str, str]:
    """Name of the key that acts, and the request's id."""
    state = request.scope.get("state") or {}
    name = getattr(state.get("principal"), "name", None) or "local"
    return str(name), str(state.get("request_id") or request.headers.get("x-request-id") or uuid.uuid4().hex)
