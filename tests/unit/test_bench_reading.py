"""Reading what people have for the model bench: tables, sessions, pairs and lists, and whatever is wrong with them."""

from __future__ import annotations

import gzip
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from marquee.errors import MarqueeError, SourceError
from training.harness.lists import are_pairs, read_lists, read_pairs, read_sessions
from training.harness.reading import Reading, fingerprint, read_events
from training.interactions import Interactions

DATA = Path(os.environ.get("MARQUEE_DATA") or Path(__file__).parents[3] / "shared" / "data")
Rows = list[tuple[str, str, float]]
EVENTS: Rows = [
    ("u2", "b", 1e9 + 5),
    ("u1", "a", 1e9),
    ("u1", "c", 1e9 + 60),
    ("u2", "a", 1e9 + 4),
    ("u1", "a", 1e9 + 30),
]
HEADER = "user_id,item_id,timestamp\n"


def rows(events: Interactions) -> Rows:
    """Each event as user, item and time, in order."""
    users, items = events.user_ids[events.users], events.item_ids[events.items]
    return [(str(u), str(i), float(t)) for u, i, t in zip(users, items, events.times, strict=True)]


EXPECTED = sorted(EVENTS, key=lambda row: (row[0], row[2]))


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def delimited(events: Rows, mark: str, header: tuple[str, ...] = ()) -> str:
    lines = [mark.join(header)] if header else []
    return "\n".join([*lines, *(mark.join([user, item, f"{at:.0f}"]) for user, item, at in events)]) + "\n"


def refused(path: Path, says: str, reading: Reading | None = None, purpose: str = "events") -> None:
    with pytest.raises(SourceError, match=says) as caught:
        read_events(path, reading or Reading(), purpose)
    assert "\n" not in str(caught.value)
    assert path.name in str(caught.value)


class TestTables:
    @pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
    @pytest.mark.parametrize(
        "header",
        [
            ("user_id", "item_id", "timestamp"),
            ("userId", "movieId", "ts"),
            ("visitorid", "itemid", "time"),
            ("SessionId", "ItemId", "Time"),
            ("customer_id", "click_article_id", "click_timestamp"),
            ("user_id:token", "item_id:token", "timestamp:float"),
            ("CustomerID", "brand_id", "event_at"),
        ],
    )
    def test_usual_names_and_marks_are_found(self, tmp_path: Path, mark: str, header: tuple[str, ...]) -> None:
        path = write(tmp_path / "events.csv", delimited(EVENTS, mark, header))
        found = read_events(path, Reading())
        assert rows(found.interactions) == EXPECTED
        assert found.timed
        assert found.by_session is (header[0] == "SessionId")
        assert found.about["columns"] == dict(zip(("user", "item", "time"), header, strict=True))

    def test_named_columns_win(self, tmp_path: Path) -> None:
        text = "who,user_id,what,item_id,when,timestamp\nu,x,i,x,5,x\n"
        reading = Reading(user="who", item="what", time="when")
        found = read_events(write(tmp_path / "a.csv", text), reading)
        assert rows(found.interactions) == [("u", "i", 5.0)]

    def test_parquet_gzip_and_parts_are_the_same_table(self, tmp_path: Path) -> None:
        text = delimited(EVENTS, ",", ("user_id", "item_id", "timestamp"))
        zipped = write(tmp_path / "events.csv.gz", gzip.compress(text.encode()))
        columns = {name: [row[place] for row in EVENTS] for place, name in enumerate(("user_id", "item_id", "ts"))}
        parquet.write_table(pa.table(columns), tmp_path / "events.parquet")
        folder = tmp_path / "parts"
        folder.mkdir()
        lines = text.splitlines(keepends=True)
        write(folder / "1.csv", "".join(lines[:3]))
        write(folder / "2.csv.gz", gzip.compress((lines[0] + "".join(lines[3:])).encode()))
        write(folder / ".hidden", "rubbish")
        for path in (zipped, tmp_path / "events.parquet", folder):
            assert rows(read_events(path, Reading()).interactions) == EXPECTED

    def test_parquet_types(self, tmp_path: Path) -> None:
        moment = datetime(2020, 1, 2, tzinfo=UTC)
        kinds: list[Any] = [
            pa.array([moment], pa.timestamp("us", "UTC")),
            pa.array([moment.replace(tzinfo=None)], pa.timestamp("ns")),
            pa.array([moment.date()], pa.date32()),
            pa.array([int(moment.timestamp() * 1000)], pa.int64()),
            pa.array([moment.isoformat()]),
        ]
        for times in kinds:
            table = pa.table({"userId": pa.array([7], pa.int32()), "itemId": pa.array([9]), "date": times})
            parquet.write_table(table, tmp_path / "a.parquet")
            found = read_events(tmp_path / "a.parquet", Reading()).interactions
            assert rows(found) == [("7", "9", moment.timestamp())]

    def test_movielens_1m_and_100k(self, tmp_path: Path) -> None:
        one = write(tmp_path / "ratings.dat", "1::1193::5::978300760\n1::661::3::978302109\n2::661::4::978302268\n")
        hundred = write(tmp_path / "u.data", "196\t242\t3\t881250949\n186\t302\t3\t891717742\n")
        amazon = write(tmp_path / "ratings_Beauty.csv", "A39HTATAQ9V7YF,0205616461,5.0,1369699200\n")
        loved = read_events(one, Reading(min_weight=4)).interactions
        assert rows(loved) == [("1", "1193", 978300760.0), ("2", "661", 978302268.0)]
        assert loved.weights.tolist() == [1.0, 1.0]  # a rating that only filters is no weight
        assert rows(read_events(hundred, Reading()).interactions)[0] == ("186", "302", 891717742.0)
        weighted = read_events(hundred, Reading(weight="rating")).interactions
        assert weighted.weights.tolist() == [3.0, 3.0]
        assert rows(read_events(amazon, Reading()).interactions) == [("A39HTATAQ9V7YF", "0205616461", 1369699200.0)]

    def test_pairs_of_user_and_item_in_order(self, tmp_path: Path) -> None:
        """As SASRec's own files: no header, no time, one event a line."""
        found = read_events(write(tmp_path / "beauty.txt", "1 9\n1 3\n1 7\n2 3\n2 1\n"), Reading())
        assert [(user, item) for user, item, _ in rows(found.interactions)] == [
            ("1", "9"), ("1", "3"), ("1", "7"), ("2", "3"), ("2", "1")
        ]  # fmt: skip
        assert not found.timed

    def test_three_columns_without_header(self, tmp_path: Path) -> None:
        rated = read_events(write(tmp_path / "a.csv", "1,9,5\n1,3,4\n"), Reading(min_weight=5))
        assert rows(rated.interactions) == [("1", "9", 0.0)]
        assert not rated.timed
        timed = read_events(write(tmp_path / "b.csv", "1,9,1369699200\n"), Reading())
        assert timed.timed

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("1506826828", 1506826828.0),
            ("1506826828.25", 1506826828.25),
            ("1506826828020", 1506826828.02),
            ("1506826828020000", 1506826828.02),
            ("1506826828020000000", 1506826828.02),
            ("17", 17.0),
            ("0", 0.0),
            ("2017-10-01", 1506816000.0),
            ("2017-10-01 03:00:28", 1506826828.0),
            ("2017-10-01T03:00:28Z", 1506826828.0),
            ("2017-10-01T05:00:28+02:00", 1506826828.0),
        ],
    )
    def test_units_of_time(self, tmp_path: Path, text: str, seconds: float) -> None:
        found = read_events(write(tmp_path / "a.csv", f"{HEADER}u,i,{text}\n"), Reading())
        assert found.interactions.times[0] == pytest.approx(seconds, abs=1e-4)

    def test_the_machine_s_time_zone_does_not_matter(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = write(tmp_path / "a.csv", f"{HEADER}u,i,2017-10-01 00:00:00\n")
        monkeypatch.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        try:
            assert read_events(path, Reading()).interactions.times[0] == 1506816000.0
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_sessions_come_first_only_where_they_are_asked_for(self, tmp_path: Path) -> None:
        path = write(tmp_path / "a.csv", "user_id,session_id,item_id,ts\nu,s,i,1\nu,t,j,2\n")
        assert read_events(path, Reading()).interactions.user_ids.tolist() == ["u"]
        found = read_events(path, Reading(), "sessions")
        assert found.interactions.user_ids.tolist() == ["s", "t"]
        assert found.by_session
        assert not read_events(path, Reading(user="user_id"), "sessions").by_session

    def test_rows_left_out_are_counted(self, tmp_path: Path) -> None:
        text = HEADER + ",i,1\nNA,i,2\nu,,3\nu,i,4\nu,i,5\nu,j,99\nu,k,0\n"
        reading = Reading(since="1970-01-01T00:00:01", until="1970-01-01T00:01", first_only=True)
        found = read_events(write(tmp_path / "a.csv", text), reading)
        assert rows(found.interactions) == [("u", "i", 4.0)]
        assert {
            name: found.about[name] for name in found.about if name.startswith("rows") or name == "filtered_out"
        } == {
            "rows": 7,
            "rows_without_user_or_item": 3,
            "rows_outside_the_times": 2,
            "rows_under_min_weight": 0,
            "filtered_out": 1,
        }

    def test_contexts(self, tmp_path: Path) -> None:
        text = "user_id,item_id,ts,device\nu,a,1,tablet\nu,b,2,\nv,a,3,phone\n"
        found = read_events(write(tmp_path / "a.csv", text), Reading(context="device"))
        names = np.array(found.about["contexts"])
        assert names[found.interactions.contexts].tolist() == ["tablet", "(none)", "phone"]

    def test_quotes_windows_lines_and_marks_of_utf8(self, tmp_path: Path) -> None:
        text = '\ufeffuser_id,item_id,timestamp\r\nu,"a, ""b""",1\r\nü,c,2\r\n'
        found = read_events(write(tmp_path / "a.csv", text), Reading())
        assert rows(found.interactions) == [("u", 'a, "b"', 1.0), ("ü", "c", 2.0)]

    def test_events_of_one_moment_keep_the_order_of_the_file(self, tmp_path: Path) -> None:
        names = [f"i{number:05d}" for number in np.random.default_rng(0).permutation(9000)]
        path = write(tmp_path / "a.csv", HEADER + "".join(f"u,{name},7\n" for name in names))
        found = read_events(path, Reading()).interactions
        assert found.item_ids[found.items].tolist() == names


class TestWrongTables:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "is empty"),
            (HEADER, "has no row"),
            ("user_id,price,timestamp\nu,1,2\n", "no column for the item by a usual name: name one of user_id, price"),
            ("a,b,c\nx,y,z\n", "line 1: no column has a usual name; name user, item and time of a, b, c"),
            ("user_id\nu\n", "only one column"),
            ("1,2,3,4,5\n", "no header, and 5 columns"),
            (f"{HEADER}u,i,1\nu,i\n", r"line 3: 2 columns where there should be 3; mend the line"),
            (f"{HEADER}u,i,1\nu,i,1,9\n", r"line 3: 4 columns where there should be 3; mend the line"),
            (f"{HEADER}u,i,2017-10-01\n\nu,j,6-4\n", r"line 4: '6-4' in column 'timestamp' is no such value"),
            (f'{HEADER}u,"two\nlines",1\nu,j,\n', r"line 4: '' in column 'timestamp' is no such value"),
            (f"{HEADER}u,i,nan\n", r"line 2: 'nan' in column 'timestamp'"),
            (f"{HEADER}u,i,1506826828\nu,j,1506826828020\n", "mixes units of time"),
            (f'{HEADER}u,i,1\nu,"j,2\n', "line 3: a quotation mark is never closed"),
            (f"{HEADER}u,café,1\n".encode("latin-1"), r"line 2: not UTF-8"),
            ("user_id,item_id,ts\nu,i,1\n".encode("utf-16"), r"line 1: not UTF-8"),
            (gzip.compress(HEADER.encode() + b"u,i,1\n" * 60_000, mtime=0)[:-200], "its gzip is cut off or damaged"),
            (gzip.compress(HEADER.encode() + b"u,i,1\n" * 60_000, mtime=0)[:-5], "its gzip is cut off or damaged"),
            (gzip.compress(HEADER.encode(), mtime=0)[:12], "its gzip is cut off or damaged"),
            (b"PAR1 rubbish", "is it the file you mean, and whole"),
        ],
    )
    def test_one_line_says_which_file_and_where(self, tmp_path: Path, text: str | bytes, says: str) -> None:
        refused(write(tmp_path / "events.csv", text), says, Reading(format="table"))

    def test_missing_files_and_columns(self, tmp_path: Path) -> None:
        refused(tmp_path / "gone.csv", "there is no file")
        (tmp_path / "empty").mkdir()
        refused(tmp_path / "empty", "there is no file in")
        path = write(tmp_path / "a.csv", f"{HEADER}u,i,1\n")
        refused(path, "has no column 'who' for the user; it has user_id, item_id, timestamp", Reading(user="who"))
        refused(path, "has no column of ratings", Reading(min_weight=4))
        refused(path, "no event is left of 1", Reading(min_item_events=2))
        with pytest.raises(SourceError, match="there is no format 'xml'; there are auto, table"):
            read_events(path, Reading(format="xml"))
        with pytest.raises(SourceError, match=r"since '1.1.2020' is no moment"):
            read_events(path, Reading(since="1.1.2020"))

    def test_parts_must_fit(self, tmp_path: Path) -> None:
        write(tmp_path / "1.csv", f"{HEADER}u,i,1\n")
        write(tmp_path / "2.csv", "item_id,user_id,timestamp\ni,u,1\n")
        with pytest.raises(SourceError, match=r"2.csv line 1: other columns than in 1.csv"):
            read_events(tmp_path, Reading())

    def test_the_part_with_the_mistake_is_named(self, tmp_path: Path) -> None:
        write(tmp_path / "1.csv", f"{HEADER}u,i,1\nu,i,2\n")
        write(tmp_path / "2.csv", f"{HEADER}u,i,3\nu,i,soon\n")
        with pytest.raises(SourceError, match=r"2.csv line 3: 'soon' in column 'timestamp'"):
            read_events(tmp_path, Reading())

    def test_a_mistake_in_a_file_of_double_colons(self, tmp_path: Path) -> None:
        refused(write(tmp_path / "r.dat", "1::2::5::978300760\n1::2::5::x\n"), r"line 2: 'x' in column 'time'")

    def test_a_null_in_parquet(self, tmp_path: Path) -> None:
        table = pa.table({"user_id": ["u", "u"], "item_id": ["i", "j"], "ts": [1.0, None]})
        parquet.write_table(table, tmp_path / "a.parquet")
        refused(tmp_path / "a.parquet", "row 2: no sensible value in column 'ts'")


class TestLines:
    def test_sessions(self, tmp_path: Path) -> None:
        path = write(tmp_path / "sessions.txt", "7 8\n\n3 4 5\n7 7\n")
        found = read_events(path, Reading(), "sessions")
        assert [(user, item) for user, item, _ in rows(found.interactions)] == [
            ("0", "7"), ("0", "8"), ("1", "3"), ("1", "4"), ("1", "5"), ("2", "7"), ("2", "7")
        ]  # fmt: skip
        assert found.interactions.times.tolist() == list(range(7))
        assert found.by_session
        assert not found.timed

    def test_pairs_and_their_sessions(self, tmp_path: Path) -> None:
        """Longest prefix first as SR-GNN writes them, then a session with the shortest first."""
        pairs = read_pairs(write(tmp_path / "p.txt", "1 2 3\t4\n1 2\t3\n1\t2\n5\t1\n\n5 1\t5\n5 1 5\t9\n2\t9\n"))
        assert pairs.prefixes == [["1", "2", "3"], ["1", "2"], ["1"], ["5"], ["5", "1"], ["5", "1", "5"], ["2"]]
        assert pairs.targets == ["4", "3", "2", "1", "5", "9", "9"]
        assert pairs.sessions == [0, 0, 0, 1, 1, 1, 2]

    def test_lists(self, tmp_path: Path) -> None:
        path = write(tmp_path / "train.txt", "0 5 3 9 \n1 5\n2\n7 3 3\n")
        found = read_events(path, Reading(), "lists")
        assert [(user, item) for user, item, _ in rows(found.interactions)] == [
            ("0", "5"), ("0", "3"), ("0", "9"), ("1", "5"), ("7", "3"), ("7", "3")
        ]  # fmt: skip
        assert read_lists(path).user_ids.tolist() == ["0", "1", "2", "7"]

    def test_what_lines_of_items_are_depends_on_what_they_are_for(self, tmp_path: Path) -> None:
        distinct = write(tmp_path / "a.txt", "1 2\n3 4 5\n6 7\n")
        for purpose, users in (("sessions", ["0", "1", "2"]), ("lists", ["1", "3", "6"]), ("events", ["1", "3", "6"])):
            assert read_events(distinct, Reading(), purpose).interactions.user_ids.tolist() == users
        repeated = write(tmp_path / "b.txt", "1 2\n1 4 5\n6 7\n")
        assert read_events(repeated, Reading(), "events").by_session
        refused(repeated, "line 2: user 1 has line 1 already; .* give the format sessions", purpose="lists")
        assert read_events(repeated, Reading(format="sessions"), "lists").by_session
        pairs = write(tmp_path / "c.txt", "1 2\n3 4\n")
        assert read_events(pairs, Reading(format="table"), "events").about["format"] == "table"

    def test_are_pairs(self, tmp_path: Path) -> None:
        for text, table, expected in [
            ("1 2\t3\n", False, True),
            ("1\t3\n", False, True),
            ("1 2 3\n4 5\n", False, False),
            ("1 2 3\n4\t5\n", False, True),
            ("1\t3\n", True, False),
            ("1 2\t3\n", True, True),
        ]:
            assert are_pairs(write(tmp_path / "a.txt", text), table) is expected

    @pytest.mark.parametrize(
        ("read", "text", "says"),
        [
            (read_sessions, "", "is empty"),
            (read_sessions, "1\n2\n", "no session has two items"),
            (read_sessions, "1 2\nä\n".encode("latin-1"), "line 2: not UTF-8"),
            (read_sessions, gzip.compress(b"1 2 3\n" * 90_000, mtime=0)[:-30], "its gzip is cut off or damaged"),
            (read_pairs, "", "is empty"),
            (read_pairs, "1 2\t3\n1 2 3\n", "line 2: no tab; a line is the items so far, a tab and the next item"),
            (read_pairs, "\t3\n", "line 1: no item before the tab"),
            (read_pairs, "1\t\n", "line 1: not one item behind the tab"),
            (read_pairs, "1\t2 3\n", "line 1: not one item behind the tab"),
            (read_lists, "0 1\n1 2\n0 3\n", "line 3: user 0 has line 1 already"),
            (read_lists, "0\n1\n", "holds no item"),
        ],
    )
    def test_mistakes(self, tmp_path: Path, read: Callable[[Path], Any], text: str | bytes, says: str) -> None:
        path = write(tmp_path / "lines.txt", text)
        with pytest.raises(MarqueeError, match=says) as caught:
            read(path)
        assert "lines.txt" in str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(SourceError, match=r"there is no file .*gone"):
            read_pairs(tmp_path / "gone")
        with pytest.raises(SourceError, match="is a folder"):
            read_pairs(tmp_path)


class TestFingerprint:
    def test_it_is_of_the_content(self, tmp_path: Path) -> None:
        one, two = write(tmp_path / "a", "12"), write(tmp_path / "b", "12")
        assert fingerprint([one]) == fingerprint([two])
        # echo -n 12 | sha256sum
        assert fingerprint([one]) == "6b51d431df5d7f141cbececcf79edf3dd861c3b4069f0b11661a3eefacbba918"
        assert fingerprint([one]) != fingerprint([one, two])
        assert fingerprint([tmp_path]) == fingerprint([one, two])


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not under {DATA}; set MARQUEE_DATA to the folder that holds it")
    return DATA / name


class TestRealData:
    def test_diginetica(self) -> None:
        found = read_events(real("diginetica/train_sessions.plain.txt.gz"), Reading(), "sessions").interactions
        assert (found.user_count, len(found), found.item_count) == (186_670, 906_140, 43_097)
        pairs = read_pairs(real("diginetica/test_pairs.plain.txt.gz"))
        assert len(pairs.targets) == 60_858

    def test_tmall(self) -> None:
        """Its days have no year, so that times cannot be read; without them the rows are counted."""
        path = next(real("tmall_2014").iterdir())
        refused(path, "line 2: '6-4' in column 'visit_datetime'")

    def test_online_retail(self) -> None:
        found = read_events(real("online_retail_uci/by-day"), Reading(context="Country"))
        counts = [found.about[name] for name in ("rows", "rows_without_user_or_item", "users")]
        assert counts == [541_909, 135_080, 4_372]

    @pytest.mark.slow
    def test_globo(self) -> None:
        found = read_events(real("globo_clicks/clicks"), Reading())
        assert (found.about["rows"], found.about["users"]) == (2_988_181, 322_897)
        by_session = read_events(real("globo_clicks/clicks"), Reading(), "sessions")
        assert (by_session.about["users"], by_session.about["items"]) == (1_048_594, 46_033)
