"""The time zone of a visitor, from their country: what sources report is a code or a name, never a zone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from importlib.resources import files
from typing import Final

LARGEST: Final = {
    "AR": "America/Argentina/Buenos_Aires",
    "AU": "Australia/Sydney",
    "BR": "America/Sao_Paulo",
    "CA": "America/Toronto",
    "CD": "Africa/Kinshasa",
    "CL": "America/Santiago",
    "CN": "Asia/Shanghai",
    "CY": "Asia/Nicosia",
    "DE": "Europe/Berlin",
    "EC": "America/Guayaquil",
    "ES": "Europe/Madrid",
    "ID": "Asia/Jakarta",
    "KZ": "Asia/Almaty",
    "MN": "Asia/Ulaanbaatar",
    "MX": "America/Mexico_City",
    "MY": "Asia/Kuala_Lumpur",
    "NZ": "Pacific/Auckland",
    "PT": "Europe/Lisbon",
    "RU": "Europe/Moscow",
    "UA": "Europe/Kyiv",
    "US": "America/New_York",
    "UZ": "Asia/Tashkent",
}
"""Where most people live, in countries of more than one zone."""
ALSO_CALLED: Final = {
    "united kingdom": "GB",
    "uk": "GB",
    "usa": "US",
    "eire": "IE",
    "south korea": "KR",
    "czechia": "CZ",
}
"""Names that the tables of the time zone database write otherwise."""


def zone_of(country: str | None, default: str) -> str:
    """The zone of a country, named by ISO 3166 code or in English; the default where it is not known."""
    name = (country or "").strip()
    code = name.upper() if len(name) == 2 and name.upper() in _zones() else _codes().get(name.casefold(), "")
    return _zones().get(code, default)


@lru_cache(1)
def _zones() -> dict[str, str]:
    found: dict[str, str] = {}
    for code, _, zone, *_ in _rows("zone.tab"):
        found.setdefault(code, zone)
    return found | LARGEST


@lru_cache(1)
def _codes() -> dict[str, str]:
    return {name.casefold(): code for code, name in _rows("iso3166.tab")} | ALSO_CALLED


def _rows(table: str) -> Iterator[list[str]]:
    """Rows of a table of the IANA time zone database, public domain."""
    text = (files("tzdata") / "zoneinfo" / table).read_text(encoding="utf-8")
    yield from (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
