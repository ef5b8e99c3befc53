"""Changes of the managed catalogue: what may be changed, and what a change comes to. Pure; both stores use it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from marquee.catalogue import KINDS, Banner, Campaign, Record
from marquee.errors import MarqueeError, TryAgain

Records = Mapping[str, Mapping[str, Record]]
"""Records by kind and id."""
ID_FIELDS: Final = {"campaigns": "campaign_id", "banners": "banner_id"} | {
    "placements": "placement_id",
    "products": "product_id",
}


@dataclass(frozen=True, slots=True)
class Change:
    """Put this record there, or delete what is there when it is ``None``.

    With ``expected_version`` it counts only if the record still has that version: 0 for one that was never managed.
    """

    kind: str
    id: str
    record: Record | None
    expected_version: int | None = None


@dataclass(frozen=True, slots=True)
class Managed:
    """All that is managed, as of one version.

    Attributes:
        version: of the catalogue; each change of it adds 1.
        records: by kind and id.
        deleted: by kind and id, what each deleted one was last; None where nothing was known of it.
        versions: by kind and id, the version that last changed it, deleted ones too.
    """

    version: int = 0
    records: Records = field(default_factory=lambda: {kind: {} for kind in KINDS})
    deleted: Mapping[str, Mapping[str, Record | None]] = field(default_factory=lambda: {kind: {} for kind in KINDS})
    versions: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: {kind: {} for kind in KINDS})


@dataclass(frozen=True, slots=True)
class Stored:
    """One row of a store: a record, or what a deleted one was last."""

    kind: str
    id: str
    version: int
    record: Record | None
    is_deleted: bool


@dataclass(frozen=True, slots=True)
class Write:
    """What a store has to do: ``after`` replaces ``before``; a deleted one keeps ``before`` as what it was last."""

    kind: str
    id: str
    before: Record | None
    after: Record | None

    def stored(self, version: int) -> Stored:
        """The row that it leaves."""
        return Stored(self.kind, self.id, version, self.after or self.before, self.after is None)


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with one of the changes: its place from 0, the field, and why."""

    index: int
    field: str
    message: str


class CatalogueStoreError(TryAgain):
    """The catalogue's store cannot be reached or refuses."""


class CatalogueRefused(MarqueeError):
    """A change that may not be made; nothing of the call was."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("; ".join(fault.message for fault in self.faults))


class UnknownReference(CatalogueRefused):
    """A record names another that there is not, or is none of its kind."""


class StillInUse(CatalogueRefused):
    """A campaign that still has banners."""


class VersionConflict(CatalogueRefused):
    """Somebody else changed the record meanwhile."""


class _Draft:
    """The catalogue as it would be."""

    def __init__(self, managed: Managed, known: Records) -> None:
        self.managed, self.known = managed, known
        self.changed: dict[tuple[str, str], Record | None] = {}

    def before(self, kind: str, key: str) -> Record | None:
        """What is in force now."""
        if key in self.managed.deleted[kind]:
            return None
        return self.managed.records[kind].get(key) or self.known.get(kind, {}).get(key)

    def get(self, kind: str, key: str) -> Record | None:
        return self.changed[kind, key] if (kind, key) in self.changed else self.before(kind, key)

    def keys(self, kind: str) -> Iterator[str]:
        """Ids of what would be in force."""
        changed = {key for of, key in self.changed if of == kind}
        for key in {*self.managed.records[kind], *self.known.get(kind, {}), *changed}:
            if self.get(kind, key) is not None:
                yield key

    def banners_of(self, campaigns: Iterable[str]) -> dict[str, list[str]]:
        """Banners by campaign, for these campaigns."""
        found: dict[str, list[str]] = {campaign: [] for campaign in campaigns}
        for key in self.keys("banners") if found else ():
            banner = self.get("banners", key)
            if isinstance(banner, Banner) and banner.campaign_id in found:
                found[banner.campaign_id].append(key)
        return found


def decide(managed: Managed, changes: Sequence[Change], known: Records, cascade: bool) -> list[Write]:
    """What these changes, made in order, come to; one write a record.

    Only references that a change adds are looked at: a banner whose placement is gone can still be paused.

    Args:
        known: what the warehouse says; managed records and deletions come before it.
        cascade: delete a deleted campaign's banners too.

    Raises:
        UnknownReference, StillInUse, VersionConflict: and nothing of it may be done.
    """
    draft, places = _Draft(managed, known), dict[tuple[str, str], int]()
    for index, change in enumerate(changes):
        _check_form(index, change)
        if change.expected_version is not None:
            _check_version(index, change, managed, is_again=(change.kind, change.id) in places)
        draft.changed[change.kind, change.id] = change.record
        places[change.kind, change.id] = index
    gone = [key for (kind, key), record in draft.changed.items() if kind == "campaigns" and record is None]
    left = {campaign: banners for campaign, banners in draft.banners_of(gone).items() if banners}
    if cascade:
        draft.changed |= {("banners", banner): None for banners in left.values() for banner in banners}
    elif left:
        raise StillInUse([_in_use(places["campaigns", key], key, banners) for key, banners in left.items()])
    if faults := list(_unknown_references(draft, places)):
        raise UnknownReference(faults)
    return [Write(kind, key, draft.before(kind, key), record) for (kind, key), record in draft.changed.items()]


def absorbed(managed: Managed, version: int, rows: Iterable[Stored]) -> Managed:
    """The catalogue with rows that were changed since, as of ``version``."""
    records = {kind: dict(managed.records[kind]) for kind in KINDS}
    deleted = {kind: dict(managed.deleted[kind]) for kind in KINDS}
    versions = {kind: dict(managed.versions[kind]) for kind in KINDS}
    for row in rows:
        versions[row.kind][row.id] = row.version
        if row.is_deleted:
            records[row.kind].pop(row.id, None)
            deleted[row.kind][row.id] = row.record
        elif row.record is not None:
            deleted[row.kind].pop(row.id, None)
            records[row.kind][row.id] = row.record
    return replace(managed, version=version, records=records, deleted=deleted, versions=versions)


def restored(kind: str, key: str, version: int, text: str | None, is_deleted: bool) -> Stored:
    """A row as a store has it. Of a deleted one of the warehouse's, which need not fit, nothing may be known.

    Raises:
        CatalogueStoreError: its record is none of this version.
    """
    try:
        record = None if text is None else KINDS[kind].model_validate_json(text)
        return Stored(kind, key, version, record, bool(is_deleted))
    except (KeyError, ValueError) as error:
        if is_deleted and kind in KINDS:
            return Stored(kind, key, version, None, is_deleted=True)
        raise CatalogueStoreError(f"catalogue: the stored {kind} {key!r} cannot be read: {error}") from None


def _check_form(index: int, change: Change) -> None:
    if change.kind not in KINDS:
        raise UnknownReference([Fault(index, "kind", f"{change.kind!r} is not one of {', '.join(KINDS)}")])
    if change.record is None:
        return
    name = ID_FIELDS[change.kind]
    if not isinstance(change.record, KINDS[change.kind]) or getattr(change.record, name) != change.id:
        raise UnknownReference([Fault(index, name, f"{name} must be {change.id!r}, of {change.kind}")])


def _check_version(index: int, change: Change, managed: Managed, is_again: bool) -> None:
    version = managed.versions[change.kind].get(change.id, 0)
    if is_again or version != change.expected_version:
        found = "the same call changes it before" if is_again else f"it has version {version}"
        message = f"{change.kind} {change.id!r}: version {change.expected_version} was expected, {found}; read it again"
        raise VersionConflict([Fault(index, ID_FIELDS[change.kind], message)])


def _unknown_references(draft: _Draft, places: Mapping[tuple[str, str], int]) -> Iterator[Fault]:
    has_placements = any(True for _ in draft.keys("placements"))
    for (kind, key), banner in draft.changed.items():
        if kind != "banners" or not isinstance(banner, Banner):
            continue
        index, before = places[kind, key], draft.before(kind, key)
        named = (before.campaign_id, *before.placements) if isinstance(before, Banner) else ()
        if banner.campaign_id not in named[:1] and not isinstance(draft.get("campaigns", banner.campaign_id), Campaign):
            yield Fault(index, "campaign_id", f"banner {key!r}: there is no campaign {banner.campaign_id!r}")
        for place, name in enumerate(banner.placements):
            if has_placements and name not in named[1:] and draft.get("placements", name) is None:
                yield Fault(index, f"placements[{place}]", f"banner {key!r}: there is no placement {name!r}")


def _in_use(index: int, campaign: str, banners: list[str]) -> Fault:
    shown = ", ".join(sorted(banners)[:5]) + (f" and {len(banners) - 5} more" if len(banners) > 5 else "")
    return Fault(index, "campaign_id", f"campaign {campaign!r} still has banners: {shown}; delete them too, or cascade")
