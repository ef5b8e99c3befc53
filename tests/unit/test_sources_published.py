"""The data sets with a published layout: made files, exact records, rejected rows, whole-file errors."""

import gzip
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ingestion.batch import Batch, Rejected
from ingestion.sources import SOURCES, open_source
from marquee.errors import SourceError

LAYOUTS: dict[str, dict[str, str]] = {
    "retailrocket": {
        "events.csv": "timestamp,visitorid,event,itemid,transactionid\n1433221332117,257597,view,355908,\n"
        "1433221332118,257597,addtocart,355908,\n1433221332119,257597,transaction,355908,4000\n",
        "item_properties_part1.csv": "timestamp,itemid,property,value\n1435460400000,460429,categoryid,1338\n"
        "1435460400000,460429,790,n32880.000\n",
        "item_properties_part2.csv": "timestamp,itemid,property,value\n1435460400000,460429,available,1\n",
        "category_tree.csv": "categoryid,parentid\n1016,213\n231,\n",
    },
    "tmall": {
        "t.csv": "user_id,brand_id,type,visit_datetime\n7,1,0,6-4\n7,1,0,6-4\n7,1,1,12-31\n7,2,2,6-4\n7,2,3,6-4\n"
    },
    "globo": {
        "clicks/clicks_hour_001.csv": "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,"
        "click_environment,click_deviceGroup,click_os,click_country,click_region,click_referrer_type\n"
        "5,90,1507664181000,2,234698,1507665087282,4,3,20,1,13,2\n5,90,1507664181000,2,7,1507665087283,4,4,20,,13,\n",
        "clicks/clicks_hour_000.csv": "user_id,session_id,click_article_id,click_timestamp,click_deviceGroup,"
        "click_country,click_referrer_type\n6,91,8,1507664000000,1,1,2\n",
        "articles_metadata.csv": "article_id\n1\n",
    },
    "online-retail": {
        "by-day/2010-12-02.csv": "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n"
        "536365,85123A,HEART,6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\n"
        "C536379,85123A,HEART,-1,12/1/2010 9:41,2.75,17850,United Kingdom\n"
        '536366,22633,"HAND, WARMER",2,2010-12-01 08:28:00,1.85,,France\n'
        "536367,22633,damaged,-3,2010-12-01 08:29:00,0.0,,France\n",
    },
}


def _write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def _read(name: str, path: Path) -> list[Batch]:
    return list(open_source(name, path).read())


def _records(batches: list[Batch], table: str) -> list[dict[str, Any]]:
    """Records of a table without their empty fields and ids."""
    rows = [row for batch in batches if batch.table == table for row in batch.records.to_pylist()]
    return [{key: value for key, value in row.items() if value is not None and key != "event_id"} for row in rows]


def _ids(batches: list[Batch]) -> list[str]:
    return [event for batch in batches if batch.table == "events" for event in batch.records["event_id"].to_pylist()]


def _rejected(batches: list[Batch]) -> list[Rejected]:
    return [row for batch in batches for row in batch.rejected]


def test_unknown_source_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"unknown source 'ga3'; known ones: completejourney, ga4, globo, marquee"):
        open_source("ga3", tmp_path)
    assert set(SOURCES) == {"completejourney", "retailrocket", "tmall", "globo", "online-retail", "ga4", "marquee"}
    assert all(source.about and "\n" not in source.about for source in SOURCES.values())


def test_retailrocket(tmp_path: Path) -> None:
    batches = _read("retailrocket", _write(tmp_path, LAYOUTS["retailrocket"]))
    viewed_at = datetime(2015, 6, 2, 5, 2, 12, 117000)
    base = {"visitor_id": "257597", "product_id": "355908"}
    assert _records(batches, "events") == [
        base | {"kind": "product_view", "occurred_at": viewed_at},
        base | {"kind": "cart", "occurred_at": viewed_at.replace(microsecond=118000)},
        base
        | {"kind": "order", "occurred_at": viewed_at.replace(microsecond=119000), "order_id": "4000", "quantity": 1.0},
    ]
    valid = {"product_id": "460429", "valid_from_at": datetime(2015, 6, 28, 3)}
    assert _records(batches, "product_properties") == [
        valid | {"property": "category_id", "value": "1338"},
        valid | {"property": "790", "value": "n32880.000"},
        valid | {"property": "is_available", "value": "1"},
    ]
    assert _records(batches, "categories") == [{"category_id": "1016", "parent_id": "213"}, {"category_id": "231"}]
    assert len(set(_ids(batches))) == 3
    assert not any(batch.derived for batch in batches)


def test_retailrocket_takes_one_properties_file_or_parts_but_not_both(tmp_path: Path) -> None:
    folder = _write(tmp_path, LAYOUTS["retailrocket"])
    (folder / "item_properties_part1.csv").rename(folder / "item_properties.csv")
    with pytest.raises(SourceError, match=r"item_properties\.csv and item_properties_part2\.csv; keep the whole"):
        _read("retailrocket", folder)
    (folder / "item_properties_part2.csv").unlink()
    assert len(_records(_read("retailrocket", folder), "product_properties")) == 2


def test_tmall_repeated_rows_are_repeated_actions(tmp_path: Path) -> None:
    batches = _read("tmall", _write(tmp_path, LAYOUTS["tmall"]) / "t.csv")
    june = {"visitor_id": "7", "occurred_at": datetime(2013, 6, 4)}
    assert _records(batches, "events") == [
        june | {"kind": "product_view", "product_id": "1"},
        june | {"kind": "product_view", "product_id": "1"},
        june | {"kind": "order", "product_id": "1", "occurred_at": datetime(2013, 12, 31)},
        june | {"kind": "favourite", "product_id": "2"},
        june | {"kind": "cart", "product_id": "2"},
    ]
    assert len(set(_ids(batches))) == 5
    assert _ids(batches) == _ids(_read("tmall", tmp_path))


def test_globo_reads_its_click_files_in_order(tmp_path: Path) -> None:
    batches = _read("globo", _write(tmp_path, LAYOUTS["globo"]))
    view = {"kind": "page_view", "visitor_id": "5", "session_id": "90"}
    assert _records(batches, "events") == [
        view
        | {"visitor_id": "6", "session_id": "91", "product_id": "8", "page": "article/8", "device": "desktop"}
        | {"occurred_at": datetime(2017, 10, 10, 19, 33, 20), "country": "1", "referrer": "2"},
        view
        | {"product_id": "234698", "page": "article/234698", "device": "mobile", "country": "1", "referrer": "2"}
        | {"occurred_at": datetime(2017, 10, 10, 19, 51, 27, 282000)},
        view
        | {"product_id": "7", "page": "article/7", "device": "unknown"}
        | {"occurred_at": datetime(2017, 10, 10, 19, 51, 27, 283000)},
    ]
    assert len(_records(_read("globo", tmp_path / "clicks" / "clicks_hour_001.csv"), "events")) == 2
    assert len(_records(_read("globo", tmp_path / "clicks"), "events")) == 3


def test_online_retail_orders_returns_anonymous_lines_and_products(tmp_path: Path) -> None:
    batches = _read("online-retail", _write(tmp_path, LAYOUTS["online-retail"]))
    known = {"visitor_id": "17850", "customer_id": "17850", "product_id": "85123A", "country": "United Kingdom"}
    other = {"product_id": "22633", "country": "France"}
    assert _records(batches, "events") == [
        known
        | {"kind": "order", "order_id": "536365", "quantity": 6.0, "amount": 15.3}
        | {"occurred_at": datetime(2010, 12, 1, 8, 26)},
        known
        | {"kind": "return", "order_id": "C536379", "quantity": 1.0, "amount": 2.75}
        | {"occurred_at": datetime(2010, 12, 1, 9, 41)},
        other
        | {"kind": "order", "order_id": "536366", "visitor_id": "invoice-536366", "quantity": 2.0, "amount": 3.7}
        | {"occurred_at": datetime(2010, 12, 1, 8, 28)},
        other
        | {"kind": "return", "order_id": "536367", "visitor_id": "invoice-536367", "quantity": 3.0, "amount": 0.0}
        | {"occurred_at": datetime(2010, 12, 1, 8, 29)},
    ]
    assert _records(batches, "products") == [
        {"product_id": "85123A", "title": "HEART", "price": 2.75},
        {"product_id": "22633", "title": "HAND, WARMER", "price": 1.85},
    ]
    assert [(batch.table, batch.derived) for batch in batches] == [("events", False), ("products", True)]


def test_identical_rows_with_a_clock_time_have_one_id(tmp_path: Path) -> None:
    text = LAYOUTS["online-retail"]["by-day/2010-12-02.csv"]
    batches = _read("online-retail", _write(tmp_path, {"a.csv": text + text.splitlines()[1] + "\n"}))
    assert len(_ids(batches)) == 5
    assert len(set(_ids(batches))) == 4


@pytest.mark.parametrize(
    ("source", "file", "line", "reason"),
    [
        (
            "retailrocket",
            "events.csv",
            "1433221332117,1,look,2,",
            "event 'look' is not one of view, addtocart",
        ),
        ("retailrocket", "events.csv", "soon,1,view,2,", "timestamp 'soon' is not a whole number"),
        ("retailrocket", "events.csv", "999999999999999999,1,view,2,", "timestamp 999999999999999999000 is not a time"),
        ("retailrocket", "events.csv", "1433221332117,,view,2,", "visitorid is empty"),
        ("retailrocket", "events.csv", "1433221332117,1,transaction,2,", "transactionid is empty"),
        ("retailrocket", "item_properties_part2.csv", "1435460400000,1,2,", "value is empty"),
        ("retailrocket", "category_tree.csv", ",1", "categoryid is empty"),
        ("tmall", "t.csv", "7,1,4,6-4", "type '4' is not one of 0, 1, 2, 3"),
        ("tmall", "t.csv", "7,1,0,2-29", "visit_datetime '2-29' is not a day of 2013 written M-D"),
        ("tmall", "t.csv", "7,,0,6-4", "brand_id is empty"),
        ("globo", "clicks/clicks_hour_000.csv", "6,91,8,15e11,1,1,2", "click_timestamp '15e11' is not a whole number"),
        ("globo", "clicks/clicks_hour_000.csv", "6,,8,1507664000000,1,1,2", "session_id is empty"),
        ("online-retail", "by-day/2010-12-02.csv", "1,2,3,4,2010-12-01 08:26:00,-5,,", "UnitPrice '-5' is negative"),
        ("online-retail", "by-day/2010-12-02.csv", "1,2,3,4,2/30/2010 8:26,5,,", "InvoiceDate '2/30/2010 8:26' is not"),
        ("online-retail", "by-day/2010-12-02.csv", "1,2,3,four,12/1/2010 8:26,5,,", "Quantity 'four' is not a number"),
        ("online-retail", "by-day/2010-12-02.csv", "1,2,3,1e99,12/1/2010 8:26,5,,", "Quantity '1e99' is not a number"),
    ],
)
def test_a_row_whose_fields_do_not_parse(tmp_path: Path, source: str, file: str, line: str, reason: str) -> None:
    folder = _write(tmp_path, LAYOUTS[source])
    clean = _ids(_read(source, folder))
    with (folder / file).open("a") as stream:
        stream.write(line + "\n")
    number = len(LAYOUTS[source][file].splitlines()) + 1
    batches = _read(source, folder)
    (rejected,) = _rejected(batches)
    assert (rejected.file, rejected.line, rejected.text) == (Path(file).name, number, line)
    assert reason in rejected.reason
    assert _ids(batches) == clean


@pytest.mark.parametrize("source", sorted(LAYOUTS))
def test_whole_file_errors_name_the_file(tmp_path: Path, source: str) -> None:
    with pytest.raises(SourceError, match=r"none does not exist; expected a f"):
        _read(source, tmp_path / "none")
    folder = _write(tmp_path, LAYOUTS[source])
    file = folder / next(iter(LAYOUTS[source]))
    text = file.read_text()
    header = text.splitlines()[0].split(",")
    bad = {
        "is empty": b"",
        "has a header but no rows": text.splitlines()[0].encode(),
        f"column '{header[0]}' is missing; found: x": text.replace(header[0], "x", 1).encode(),
        "is a truncated or corrupt gzip file": gzip.compress(text.encode())[:-9],
    }
    if source == "globo":  # one of many hours may be empty
        del bad["has a header but no rows"]
    for message, content in bad.items():
        file.write_bytes(content)
        with pytest.raises(SourceError, match=message) as error:
            _read(source, folder)
        assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("globo", ("clicks/clicks_hour_001.csv", "clicks/clicks_hour_000.csv")),
        ("online-retail", ("by-day/2010-12-01.csv", "by-day/2010-12-02.csv")),
    ],
)
def test_an_hour_or_day_without_rows_is_passed_over(tmp_path: Path, source: str, names: tuple[str, str]) -> None:
    text = LAYOUTS[source][next(iter(LAYOUTS[source]))]
    header = text.splitlines()[0] + "\n"
    folder = _write(tmp_path, {names[0]: header, names[1]: text})
    assert _records(_read(source, folder), "events") == _records(_read(source, folder / names[1]), "events")
    assert len(_records(_read(source, folder), "events")) >= 2
    with pytest.raises(SourceError, match="has a header but no rows"):
        _read(source, folder / names[0])
    (folder / names[1]).write_text(header)
    with pytest.raises(SourceError, match="has a header but no rows"):
        _read(source, folder)


def test_wrong_kinds_of_path(tmp_path: Path) -> None:
    folder = _write(tmp_path, LAYOUTS["retailrocket"] | {"more/a.csv": "x\n1\n", "more/b.csv": "x\n1\n"})
    with pytest.raises(SourceError, match=r"events\.csv is a file; expected the folder that holds category_tree\.csv"):
        _read("retailrocket", folder / "events.csv")
    with pytest.raises(SourceError, match="holds 2 CSV files; name the one to read"):
        _read("tmall", folder / "more")
    with pytest.raises(SourceError, match=r"more holds no file named clicks_hour_\*\.csv"):
        _read("globo", folder / "more")
    (folder / "events.csv.gz").write_bytes(b"")
    with pytest.raises(SourceError, match=r"holds both events\.csv and events\.csv\.gz; keep one of them"):
        _read("retailrocket", folder)
    (folder / "events.csv.gz").unlink()
    (folder / "events.csv").unlink()
    with pytest.raises(SourceError, match=r"lacks events as \.csv or \.csv\.gz"):
        _read("retailrocket", folder)
