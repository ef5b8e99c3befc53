"""Whatever stands in a file: each row ends as one counted record or one rejected row, or the source refuses."""

import gzip
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingestion.sources import open_source
from marquee.errors import SourceError

_JOURNEY = {
    "campaign_descriptions.csv": ["campaign_id,campaign_type,start_date,end_date", "26,Type B,2016-12-28,2017-02-19"],
    "campaigns.csv": ["campaign_id,household_id", "26,105"],
    "products.csv": ["product_id,department,product_category,product_type", "1,GROCERY,FRZN ICE,ICE"],
    "coupons.csv": ["coupon_upc,product_id,campaign_id", "100,1,26"],
    "coupon_redemptions.csv": ["household_id,coupon_upc,campaign_id,redemption_date", "105,100,26,2017-02-19"],
    "transactions.csv": [
        "household_id,store_id,basket_id,product_id,quantity,sales_value,transaction_timestamp",
        "2261,309,31625220889,1,1.0,3.86,2017-01-28 19:06:53",
    ],
}
_GA4 = {
    "event_timestamp": "1612094400000250",
    "event_name": "view_promotion",
    "event_params": [{"key": "ga_session_id", "value": {"int_value": "77"}}],
    "user_pseudo_id": "1.2",
    "items": [{"promotion_id": "a", "index": 1}, {"promotion_id": "b"}],
}
_EVENT = {"event_id": "e", "kind": "order", "occurred_at": "2026-01-02T03:04:05Z", "visitor_id": "v", "product_id": "p"}
_PURCHASE = _GA4 | {"event_name": "purchase", "items": [{"item_id": "a", "price": 1.5, "quantity": 2}]}
FILES: dict[str, dict[str, list[str]]] = {
    "completejourney": _JOURNEY,
    "retailrocket": {
        "events.csv": ["timestamp,visitorid,event,itemid,transactionid", "1433221332117,257597,transaction,355908,4"],
        "item_properties.csv": ["timestamp,itemid,property,value", "1435460400000,460429,categoryid,1338"],
        "category_tree.csv": ["categoryid,parentid", "1016,213"],
    },
    "tmall": {"t.csv": ["user_id,brand_id,type,visit_datetime", "7,1,0,6-4"]},
    "globo": {
        "clicks_hour_000.csv": [
            "user_id,session_id,click_article_id,click_timestamp,click_deviceGroup,click_country,click_referrer_type",
            "6,91,8,1507664000000,1,1,2",
        ]
    },
    "online-retail": {
        "a.csv": [
            "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country",
            '536365,85123A,"HEART, RED",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom',
        ]
    },
    "ga4": {"a.json": ["", json.dumps(_GA4), json.dumps(_PURCHASE)]},
    "marquee": {"events.jsonl": ["", json.dumps(_EVENT | {"amount": 2.5, "position": 3})]},
}
"""Of each source a file or folder: a header (none for JSON), then good lines to repeat and to mangle."""

# What breaks readers: structure, encoding, number and date parsers, JSON escapes.
_STRUCTURE = [b'"', b",", b"{", b"[", b"]", b":", b"", b" ", b"\0", b"\r", b"\xff", b"\xc3", b"\xe2\x80\xa8"]
_VALUES = [b"nan", b"-", b"9" * 30, b"e999", b"1e5", b"null", b"true", b"2017-02-30", b"\\ud800", b"\\u0000"]
_BYTES = st.binary(max_size=6).map(lambda raw: raw.replace(b"\n", b""))
_SHARDS = st.sampled_from([*_STRUCTURE, *_VALUES, b"\xef\xbb\xbf"]) | _BYTES


@st.composite
def mangled_lines(draw: st.DrawFn, good: list[str]) -> list[bytes]:
    """Good lines, some with a piece of them replaced."""
    lines = []
    for line in draw(st.lists(st.sampled_from(good), min_size=1, max_size=8)):
        raw = line.encode()
        if draw(st.booleans()):
            start = draw(st.integers(0, len(raw)))
            stop = draw(st.integers(start, min(len(raw), start + 12)))
            raw = raw[:start] + draw(_SHARDS) + raw[stop:]
        lines.append(raw)
    return lines


def _write(folder: Path, source: str, data: st.DataObject) -> list[int]:
    """Write the source's files, mangled below their headers; returns how many rows each holds."""
    rows = []
    for name, (header, *good) in FILES[source].items():
        lines = data.draw(mangled_lines(good), label=name)
        head = f"{header}\n".encode() if header else b""
        content = head + b"\n".join(lines)
        if data.draw(st.booleans(), label="gzip"):
            content = gzip.compress(content)
        (folder / name).write_bytes(content)
        # The first line of a headless file may lose a byte order mark.
        firsts = lines if header else [lines[0].removeprefix(b"\xef\xbb\xbf"), *lines[1:]]
        rows.append(sum(bool(line.rstrip(b"\r")) for line in firsts))
    return rows


def _count(source: str, folder: Path) -> tuple[int, int]:
    """Counted records and rejected rows."""
    counted = rejected = 0
    for batch in open_source(source, folder).read():
        assert not (batch.derived and batch.rejected)
        counted += 0 if batch.derived else batch.records.num_rows
        rejected += len(batch.rejected)
        for row in batch.rejected:
            assert row.line > 0
            assert row.reason
            assert len(row.text) <= 200
            assert row.reason.encode()
    return counted, rejected


@pytest.mark.parametrize("source", sorted(FILES))
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_rows_in_are_records_plus_rejected(source: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        rows = _write(Path(name), source, data)
        if min(rows) == 0:
            with pytest.raises(SourceError, match=r"has a header but no rows|is empty"):
                _count(source, Path(name))
        else:
            counted, rejected = _count(source, Path(name))
            assert counted + rejected == sum(rows)


@pytest.mark.parametrize("source", sorted(FILES))
def test_good_lines_are_all_counted(source: str, tmp_path: Path) -> None:
    for name, lines in FILES[source].items():
        (tmp_path / name).write_text("\n".join(lines))
    assert _count(source, tmp_path) == (sum(len(lines) - 1 for lines in FILES[source].values()), 0)


@pytest.mark.parametrize("source", sorted(FILES))
@settings(max_examples=25, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_cut_or_flipped_gzip_never_loads_in_part(source: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        for file, lines in FILES[source].items():
            whole = gzip.compress("\n".join(lines).encode(), mtime=0)
            stop = data.draw(st.integers(20, len(whole) - 1), label="kept bytes")
            flipped = bytes([whole[stop] ^ 0xFF]) + whole[stop + 1 :] if data.draw(st.booleans()) else b""
            (Path(name) / file).write_bytes(whole[:stop] + flipped)
        with pytest.raises(SourceError):
            _count(source, Path(name))
