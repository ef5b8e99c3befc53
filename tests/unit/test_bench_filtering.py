"""What is left of a data set after filtering, against plain lists of rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from training.harness.coding import coded
from training.harness.filtering import core, dense, first_events, heads, recoded, split_at_gaps, tails
from training.harness.reading import Reading, read_events
from training.interactions import Interactions, from_events

Rows = list[tuple[str, str, float]]


def rows(events: Interactions) -> Rows:
    """Each event as user, item and time, in order."""
    users, items = events.user_ids[events.users], events.item_ids[events.items]
    return [(str(u), str(i), float(t)) for u, i, t in zip(users, items, events.times, strict=True)]


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def delimited(events: Rows, mark: str, header: tuple[str, ...] = ()) -> str:
    lines = [mark.join(header)] if header else []
    return "\n".join([*lines, *(mark.join([user, item, f"{at:.0f}"]) for user, item, at in events)]) + "\n"


tables = st.lists(
    st.tuples(st.sampled_from("uvwx"), st.sampled_from("abcdef"), st.integers(0, 9)), min_size=1, max_size=40
)


def interactions(events: list[tuple[str, str, int]]) -> Interactions:
    users, items, times = zip(*events, strict=True)
    return from_events(np.array(users), np.array(items), np.array(times, dtype=np.float64))


class TestFiltering:
    @settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(tables)
    def test_reading_agrees_with_from_events(self, tmp_path: Path, events: list[tuple[str, str, int]]) -> None:
        path = write(
            tmp_path / "a.csv", delimited([(u, i, float(t)) for u, i, t in events], ",", ("user_id", "item_id", "ts"))
        )
        assert rows(read_events(path, Reading()).interactions) == rows(interactions(events))

    @settings(max_examples=60, deadline=None)
    @given(tables, st.integers(1, 4), st.integers(1, 4))
    def test_the_core_is_the_largest_part_that_holds(
        self, events: list[tuple[str, str, int]], user_events: int, item_events: int
    ) -> None:
        kept = core(interactions(events), user_events, item_events)
        left = sorted(events)
        while True:  # the same by hand
            names = [[row[side] for row in left] for side in (0, 1)]
            good = [
                row for row in left if names[0].count(row[0]) >= user_events and names[1].count(row[1]) >= item_events
            ]
            if good == left:
                break
            left = good
        assert sorted(rows(kept)) == [(user, item, float(at)) for user, item, at in left]

    @settings(max_examples=60, deadline=None)
    @given(tables)
    def test_dense_and_first(self, events: list[tuple[str, str, int]]) -> None:
        every = interactions(events)
        first = first_events(every)
        pairs = [(user, item) for user, item, _ in rows(first)]
        assert len(pairs) == len(set(pairs)) == len({(user, item) for user, item, _ in events})
        assert all(at == min(t for u, i, t in events if (u, i) == (user, item)) for user, item, at in rows(first))
        some = every.where(every.items > 0)
        packed = dense(some)
        assert rows(packed) == rows(some)
        assert set(packed.user_ids) == {row[0] for row in rows(some)}
        assert set(packed.item_ids) == {row[1] for row in rows(some)}

    @settings(max_examples=60, deadline=None)
    @given(tables, st.data())
    def test_heads_and_tails_are_the_whole(self, events: list[tuple[str, str, int]], data: st.DataObject) -> None:
        every = interactions(events)
        asked = data.draw(st.lists(st.integers(0, every.user_count - 1), max_size=6))
        lengths = [data.draw(st.integers(0, int(every.lengths[row]))) for row in asked]
        row_array, length_array = np.array(asked, dtype=np.int64), np.array(lengths, dtype=np.int64)
        before, after = heads(every, row_array, length_array), tails(every, row_array, length_array)
        for place, row in enumerate(asked):
            one = np.array([place])
            joined = [*rows(before.take(one)), *rows(after.take(one))]
            assert joined == rows(every.take(np.array([row])))
            assert before.lengths[place] == lengths[place]

    def test_recoded(self) -> None:
        every = interactions([("u", "b", 1), ("u", "c", 2), ("u", "a", 3)])
        assert recoded(every, np.array(["a", "c", "d"])).items.tolist() == [-1, 1, 0]
        assert recoded(every, np.array([], dtype=np.str_)).items.tolist() == [-1, -1, -1]

    def test_a_pause_of_thirty_minutes_ends_a_session(self) -> None:
        every = interactions([("u", "a", 0), ("u", "b", 1799), ("u", "c", 3599), ("v", "a", 3600), ("v", "b", 3600)])
        cut = split_at_gaps(every, 1800.0)
        assert rows(cut) == [
            ("u#1", "a", 0.0), ("u#1", "b", 1799.0), ("u#2", "c", 3599.0), ("v#1", "a", 3600.0), ("v#1", "b", 3600.0)
        ]  # fmt: skip
        whole = split_at_gaps(every.where(every.users == 1), 1800.0)
        assert whole.user_ids.tolist() == ["v#1"]

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from(["a", "b", "ä", "", "NA", "nan", "zz", "10", "9"])))
    def test_codes(self, names: list[str]) -> None:
        for given_names in (names, pa.chunked_array([names[:2], names[2:]], pa.string())):
            words, codes = coded(given_names)
            assert words.tolist() == sorted(set(names) - {"", "NA", "nan"})
            assert [words[code] if code >= 0 else None for code in codes] == [
                name if name not in {"", "NA", "nan"} else None for name in names
            ]
