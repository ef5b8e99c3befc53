"""The one shape of events, against plain lists of rows."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from training.interactions import Interactions, ask, from_events

Row = tuple[str, str, float, float, int]
ITEMS = "abcdef"
tables = st.lists(
    st.tuples(
        st.sampled_from(["u", "v", "w", "x10", "x9"]),
        st.sampled_from(ITEMS),
        st.integers(-5, 20).map(float),
        st.integers(1, 5).map(float),
        st.integers(0, 3),
    ),
    max_size=30,
)


def made(rows: list[Row], item_ids: bool = False) -> Interactions:
    columns = [np.array([row[place] for row in rows]) for place in range(5)]
    users, items, times, weights, contexts = columns if rows else [np.array([]) for _ in range(5)]
    return from_events(
        users.astype(np.str_),
        items.astype(np.str_),
        times.astype(np.float64),
        weights.astype(np.float32),
        contexts.astype(np.int64),
        np.array(list(ITEMS)) if item_ids else None,
    )


def rows_of(events: Interactions) -> list[Row]:
    return [
        (str(events.user_ids[user]), str(events.item_ids[item]), float(at), float(weight), int(context))
        for user, item, at, weight, context in zip(
            events.users, events.items, events.times, events.weights, events.contexts, strict=True
        )
    ]


def in_order(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: (row[0], row[2]))  # stable: ties as they came


def by_user(events: Interactions) -> list[list[Row]]:
    rows = rows_of(events)
    return [rows[events.starts[user] : events.starts[user + 1]] for user in range(events.user_count)]


class TestFromEvents:
    def test_by_hand(self) -> None:
        found = from_events(np.array([2, 10, 2]), np.array(["b", "a", "a"]), np.array([5.0, 1.0, 3.0]))
        assert found.user_ids.tolist() == ["10", "2"]  # ids are texts, and sorted as such
        assert found.starts.tolist() == [0, 1, 3]
        assert found.items.tolist() == [0, 0, 1]
        assert found.times.tolist() == [1.0, 3.0, 5.0]
        assert found.weights.tolist() == [1.0] * 3
        assert found.contexts.tolist() == [0] * 3
        assert (found.item_features, found.user_features) == (None, None)

    @settings(max_examples=100, deadline=None)
    @given(tables)
    def test_it_sorts_by_user_and_time_and_keeps_all(self, rows: list[Row]) -> None:
        found = made(rows)
        assert rows_of(found) == in_order(rows)
        assert len(found) == len(rows)
        assert found.user_ids.tolist() == sorted({row[0] for row in rows})
        assert found.item_ids.tolist() == sorted({row[1] for row in rows})
        assert (np.diff(found.starts) == found.lengths).all()
        assert (found.starts[0], found.starts[-1]) == (0, len(rows))
        kinds = {name: getattr(found, name).dtype for name in ("items", "times", "weights", "contexts", "starts")}
        assert kinds == {
            "items": np.int64, "times": np.float64, "weights": np.float32, "contexts": np.int64, "starts": np.int64
        }  # fmt: skip

    def test_items_without_events(self) -> None:
        found = from_events(np.array(["u"]), np.array(["c"]), np.array([0.0]), item_ids=np.array(["a", "c", "d"]))
        assert (found.item_count, found.items.tolist()) == (3, [1])


class TestParts:
    @settings(max_examples=100, deadline=None)
    @given(tables, st.data())
    def test_take(self, rows: list[Row], data: st.DataObject) -> None:
        events = made(rows)
        count = events.user_count
        asked = data.draw(st.lists(st.integers(0, count - 1), max_size=8)) if count else []
        taken = events.take(np.array(asked, dtype=np.int64))
        assert by_user(taken) == [by_user(events)[row] for row in asked]
        assert taken.user_ids.tolist() == events.user_ids[asked].tolist() if asked else taken.user_count == 0
        assert taken.item_ids is events.item_ids

    @settings(max_examples=100, deadline=None)
    @given(tables, st.integers(0, 2**32))
    def test_where(self, rows: list[Row], seed: int) -> None:
        events = made(rows)
        keep = np.random.default_rng(seed).random(len(events)) < 0.5
        kept = events.where(keep)
        assert rows_of(kept) == [row for row, good in zip(rows_of(events), keep, strict=True) if good]
        assert kept.user_ids.tolist() == events.user_ids.tolist()
        assert len(kept.starts) == events.user_count + 1

    @settings(max_examples=100, deadline=None)
    @given(tables, st.integers(0, 6))
    def test_last(self, rows: list[Row], count: int) -> None:
        events = made(rows)
        assert by_user(events.last(count)) == [one[max(0, len(one) - count) :] for one in by_user(events)]

    @settings(max_examples=100, deadline=None)
    @given(tables, st.integers(1, 6), st.sampled_from([-1, 99]))
    def test_padded(self, rows: list[Row], length: int, padding: int) -> None:
        events = made(rows)
        table = events.padded(length, padding)
        assert table.shape == (events.user_count, length)
        for user, row in enumerate(table.tolist()):
            items = events.items[events.starts[user] : events.starts[user + 1]].tolist()[-length:]
            assert row == [padding] * (length - len(items)) + items

    @settings(max_examples=100, deadline=None)
    @given(tables, st.booleans())
    def test_matrix(self, rows: list[Row], weighted: bool) -> None:
        events = made(rows, item_ids=True)
        expected = np.zeros((events.user_count, len(ITEMS)))
        for user, item, _, weight, _ in rows:
            place = events.user_ids.tolist().index(user), ITEMS.index(item)
            expected[place] = expected[place] + weight if weighted else 1.0
        found = events.matrix(weighted)
        np.testing.assert_array_equal(found.toarray(), expected)
        assert found.nnz == np.count_nonzero(expected)
        assert found.dtype == np.float32
        assert rows_of(events) == in_order(rows)  # the matrix has memory of its own

    def test_features_of_users_go_with_them(self) -> None:
        events = made([("u", "a", 0, 1, 0), ("v", "b", 0, 1, 0)])
        content = sparse.csr_matrix(np.array([[1.0], [2.0]]))
        known = Interactions(
            events.user_ids, events.item_ids, events.starts, events.items, events.times, events.weights,
            events.contexts, content, content
        )  # fmt: skip
        taken = known.take(np.array([1, 1, 0]))
        assert taken.user_features.toarray().ravel().tolist() == [2.0, 2.0, 1.0]
        assert taken.item_features is content
        kept = known.where(np.array([False, True]))
        assert kept.user_features is content


class TestQueries:
    @settings(max_examples=100, deadline=None)
    @given(tables, tables)
    def test_ask(self, learnt: list[Row], asking: list[Row]) -> None:
        train, histories = made(learnt), made(asking)
        queries = ask(histories, train)
        assert len(queries) == histories.user_count
        known = train.user_ids.tolist()
        for row, name in enumerate(histories.user_ids.tolist()):
            assert queries.users[row] == (known.index(name) if name in known else -1)
            last = by_user(histories)[row][-1]
            assert (queries.times[row], queries.contexts[row]) == (last[2], last[4])

    def test_somebody_without_a_history_asks_at_the_end_of_training(self) -> None:
        train = made([("u", "a", 3, 1, 2), ("v", "b", 7, 1, 1)])
        nobody = train.where(np.array([False, True]))
        queries = ask(nobody, train)
        assert queries.times.tolist() == [7.0, 7.0]
        assert queries.contexts.tolist() == [0, 1]
        assert queries.users.tolist() == [0, 1]
        assert ask(nobody, train.take(np.zeros(0, np.int64))).users.tolist() == [-1, -1]

    def test_names_are_found_in_any_order(self) -> None:
        train = made([("u", "a", 0, 1, 0), ("v", "a", 0, 1, 0), ("w", "a", 0, 1, 0)]).take(np.array([2, 0, 1]))
        assert train.user_ids.tolist() == ["w", "u", "v"]
        queries = ask(train.take(np.array([0, 2, 1, 0])), train)
        assert queries.users.tolist() == [0, 2, 1, 0]

    def test_take(self) -> None:
        train = made([("u", "a", 3, 1, 2), ("v", "b", 7, 1, 1), ("w", "c", 9, 1, 0)])
        queries = ask(train, train)
        some = queries.take(np.array([2, 0, 0]))
        assert some.users.tolist() == [2, 0, 0]
        assert some.times.tolist() == [9.0, 3.0, 3.0]
        assert some.contexts.tolist() == [0, 2, 2]
        assert some.histories.user_ids.tolist() == ["w", "u", "u"]

    def test_events_cannot_be_changed_by_accident(self) -> None:
        events = made([("u", "a", 3, 1, 2)])
        with pytest.raises(AttributeError):
            events.items = np.zeros(1)  # type: ignore[misc,assignment]
