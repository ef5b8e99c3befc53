"""The page's script: what is served is what can be read, and it is small."""

from __future__ import annotations

import re

import pytest

from marquee.settings import ROOT

STATIC = ROOT / "serving" / "static"
SERVED = (STATIC / "marquee.js").read_text(encoding="utf-8")


def shortened(source: str) -> str:
    """Without comments (each has its line), indentation, spaces around signs, and semicolons before a brace."""
    lines = (line.strip() for line in source.splitlines())
    text = "".join(line for line in lines if line and not line.startswith("//"))
    text = re.sub(r'("[^"]*")|\s*([^\w"$#.\s])\s*', lambda found: found[1] or found[2], text)
    return text.replace(";}", "}") + "\n"


def test_the_served_script_is_the_readable_one_shortened() -> None:
    # To make it again: marquee.js = shortened(marquee.src.js).
    assert shortened((STATIC / "marquee.src.js").read_text(encoding="utf-8")) == SERVED


def test_the_script_is_small_and_plain() -> None:
    assert len(SERVED.encode()) <= 2_048
    assert SERVED.isascii()
    assert "</script" not in SERVED, "so that it may also stand in a page"


@pytest.mark.parametrize(
    "word", ["innerHTML", "outerHTML", "insertAdjacent", "eval", "Function", "document.write", "cookie"]
)
def test_nothing_in_it_makes_markup_or_code_of_text(word: str) -> None:
    assert word not in SERVED
