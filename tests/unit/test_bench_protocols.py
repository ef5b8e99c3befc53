"""The protocols of the model bench: each by hand on a few events, then what must hold of any split of any data."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from marquee.errors import MarqueeError
from training.harness.protocols import (
    Files,
    given_split,
    leave_one_out,
    read_task,
    sessions,
    temporal,
)
from training.harness.questions import Splitting
from training.harness.reading import Events, Reading
from training.harness.task import Task
from training.harness.validation import validation_task
from training.interactions import from_events

DATA = Path(os.environ.get("MARQUEE_DATA") or Path(__file__).parents[3] / "shared" / "data")
DAY = 86_400.0
Row = tuple[str, str, float]


def events(rows: list[Row], timed: bool = True, by_session: bool = False) -> Events:
    users, items, times = zip(*rows, strict=True)
    return Events(from_events(np.array(users), np.array(items), np.array(times, dtype=np.float64)), timed, by_session)


def spelled(text: str, step: float = 1.0) -> list[Row]:
    """``u:abc v:de`` are two users' items, one step of time after another over all."""
    rows: list[Row] = []
    for part in text.split():
        user, _, items = part.partition(":")
        rows += [(user, item, (len(rows) + place) * step) for place, item in enumerate(items)]
    return rows


def learnt(task: Task) -> dict[str, str]:
    """Items of each user in training, in order."""
    train = task.train
    lists = np.split(train.item_ids[train.items], train.starts[1:-1])
    return {str(user): "".join(items) for user, items in zip(train.user_ids, lists, strict=True)}


def asked(task: Task) -> list[tuple[str, str, str]]:
    """Each question as asker, history and right items; an item that training does not know is a ``?``."""
    histories, names = task.queries.histories, np.append(task.train.item_ids, "?")
    found = []
    for row in range(len(task.queries)):
        history = names[histories.items[histories.starts[row] : histories.starts[row + 1]]]
        right = names[task.truth.items[task.truth.starts[row] : task.truth.starts[row + 1]]]
        found.append((str(histories.user_ids[row]), "".join(history), "".join(right)))
    return found


ALL = Splitting(test_share=0.5, least_item_events=1)


class TestSessions:
    def test_every_prefix_of_the_newest_sessions(self) -> None:
        rows = spelled("s1:ab s2:bca s3:cb s4:bacb s5:xab")
        task = sessions(events(rows, by_session=True), Splitting(test_share=0.4, least_item_events=1))
        assert learnt(task) == {"s1": "ab", "s2": "bca", "s3": "cb"}
        # x of the last session is not known, so its first question is for b behind a.
        assert asked(task) == [("s4", "b", "a"), ("s4", "ba", "c"), ("s4", "bac", "b"), ("s5", "a", "b")]
        assert not task.exclude_seen
        assert task.queries.users.tolist() == [-1] * 4
        assert task.about["test_events_unknown"] == 1

    def test_filters_in_the_published_order(self) -> None:
        # Of one event: s2 goes, so that c has one event left and goes, so that s3 has one left and goes.
        rows = spelled("s1:ab s2:c s3:ca s4:ab s5:ab s6:ab")
        task = sessions(events(rows, by_session=True), Splitting(test_share=0.4, least_item_events=2))
        assert learnt(task) == {"s1": "ab", "s4": "ab"}
        assert asked(task) == [("s5", "a", "b"), ("s6", "a", "b")]

    def test_days_count_from_the_end_of_the_last_session(self) -> None:
        rows = [*spelled("s1:ab s2:ab"), ("s3", "a", 5 * DAY), ("s3", "b", 5 * DAY + 1), ("s4", "b", 6 * DAY)]
        rows += [("s4", "a", 6 * DAY + 1)]
        by_day = {
            days: [row[0] for row in asked(sessions(events(rows), Splitting(test_days=days, least_item_events=1)))]
            for days in (0.5, 1.0, 1.5, 5.9)
        }
        assert by_day == {0.5: ["s4#1"], 1.0: ["s3#1", "s4#1"], 1.5: ["s3#1", "s4#1"], 5.9: ["s3#1", "s4#1"]}

    def test_of_a_session_that_began_before_training_ended_only_the_rest_is_asked(self) -> None:
        rows = [*spelled("s1:abc s2:cba"), ("s3", "a", 4.5), ("s3", "b", 4.75), ("s3", "c", 5.0), ("s3", "a", 6.0)]
        task = sessions(events(rows, by_session=True), Splitting(test_share=0.3, least_item_events=1))
        assert (task.about["border"], task.train.times.max()) == (6.0, 5.0)
        assert asked(task) == [("s3", "ab", "c"), ("s3", "abc", "a")]
        assert task.about["targets_before_end_of_training"] == 1

    def test_pauses_make_sessions_of_users_alone(self) -> None:
        rows = [("u", "a", 0.0), ("u", "b", 60.0), ("u", "b", 4000.0), ("u", "a", 4060.0)]
        task = sessions(events(rows), ALL)
        assert (learnt(task), asked(task)) == ({"u#1": "ab"}, [("u#2", "b", "a")])
        with pytest.raises(MarqueeError, match="leaves no event to learn from"):
            sessions(events(rows, by_session=True), ALL)
        with pytest.raises(MarqueeError, match="leaves no event to learn from"):
            sessions(events(rows), Splitting(test_share=0.5, least_item_events=1, gap_minutes=0))

    def test_given_sessions_and_pairs(self, tmp_path: Path) -> None:
        (tmp_path / "train.txt").write_text("1 2 3\n2 3\n")
        (tmp_path / "pairs.txt").write_text("1 9 2\t3\n1 9\t2\n1\t9\n9\t1\n3\t1\n")
        task = read_task("sessions", Files(tmp_path / "train.txt", tmp_path / "pairs.txt"))
        assert learnt(task) == {"0": "123", "1": "23"}
        # Nobody knows 9: it goes from the prefixes; asked for, or all there is, it takes the question with it.
        assert asked(task) == [("test-0", "12", "3"), ("test-0", "1", "2"), ("test-2", "3", "1")]
        counts = [task.about[name] for name in ("pairs", "pairs_unknown", "prefix_events_unknown")]
        assert counts == [5, 2, 3]
        assert (task.queries.times > task.train.times.max()).all()

    def test_given_sessions_and_sessions(self, tmp_path: Path) -> None:
        (tmp_path / "train.txt").write_text("1 2 3\n2 3\n")
        (tmp_path / "test.txt").write_text("3 9 1 2\n9 1\n")
        task = read_task("sessions", Files(tmp_path / "train.txt", tmp_path / "test.txt"))
        assert asked(task) == [("test-0", "3", "1"), ("test-0", "31", "2")]
        assert task.queries.users.tolist() == [-1, -1]

    def test_given_tables(self, tmp_path: Path) -> None:
        """As GRU4Rec's own files."""
        (tmp_path / "train.txt").write_text("SessionId\tItemId\tTime\n1\ta\t1\n1\tb\t2\n2\tb\t1\n2\ta\t3\n")
        (tmp_path / "test.txt").write_text("SessionId\tItemId\tTime\n3\ta\t11\n3\tx\t12\n3\tb\t13\n4\tx\t14\n")
        task = read_task("sessions", Files(tmp_path / "train.txt", tmp_path / "test.txt"))
        assert (learnt(task), asked(task)) == ({"1": "ab", "2": "ba"}, [("3", "a", "b")])


class TestLeaveOneOut:
    ROWS = tuple(spelled("u:abcd v:dca w:ab x:c"))

    def test_last_and_last_but_one(self) -> None:
        task = leave_one_out(events([*self.ROWS]), Splitting())
        assert learnt(task) == {"u": "ab", "v": "d", "w": "ab", "x": "c"}
        assert asked(task) == [("u", "abc", "d"), ("v", "dc", "a")]
        assert task.exclude_seen
        assert task.train.user_ids[task.queries.users].tolist() == ["u", "v"]
        assert task.about["users_too_short"] == 2
        held = validation_task(task, 0)
        assert learnt(held) == learnt(task)
        assert asked(held) == [("u", "ab", "c"), ("v", "d", "c")]

    def test_training_on_all_but_the_last(self) -> None:
        task = leave_one_out(events([*self.ROWS]), Splitting(hold_validation=False))
        assert learnt(task) == {"u": "abc", "v": "dc", "w": "a", "x": "c"}
        assert asked(task) == [("u", "abc", "d"), ("v", "dc", "a"), ("w", "a", "b")]
        held = validation_task(task, 0)
        assert learnt(held) == {"u": "ab", "v": "d", "w": "a", "x": "c"}
        assert asked(held) == [("u", "ab", "c"), ("v", "d", "c")]

    def test_unknown_items(self) -> None:
        """y is nowhere in training: as an answer it is missed, in a history it is not there."""
        task = leave_one_out(events(spelled("u:acby v:bcya w:abc x:cbya")), Splitting())
        assert asked(task) == [("u", "acb", "?"), ("v", "bc", "a"), ("w", "ab", "c"), ("x", "cb", "a")]
        # What was held out of v and x is unknown too: nothing that was learnt from may take its place.
        assert asked(validation_task(task, 0)) == [("u", "ac", "b"), ("w", "a", "b")]
        assert task.about["answers_unknown"] == 1

    def test_a_repetition_is_no_answer_unless_seen_items_count(self) -> None:
        rows = spelled("u:abca v:abcd w:dcbaa")
        assert [row[0] for row in asked(leave_one_out(events(rows), Splitting()))] == ["v"]
        task = leave_one_out(events(rows), Splitting(exclude_seen=False))
        assert [row[0] for row in asked(task)] == ["u", "v", "w"]
        assert not task.exclude_seen


class TestTemporal:
    # Half of twelve events are before the border.
    ROWS = (
        *(("u", "a", 0.0), ("u", "b", 1.0), ("v", "b", 2.0), ("v", "c", 3.0), ("w", "c", 4.0), ("u", "a", 5.0)),
        *(("u", "c", 7.0), ("u", "b", 8.0), ("v", "x", 9.0), ("v", "a", 10.0), ("n", "a", 11.0), ("n", "x", 12.0)),
    )

    def test_one_border_for_all(self) -> None:
        task = temporal(events([*self.ROWS]), ALL)
        assert learnt(task) == {"u": "aba", "v": "bc", "w": "c"}
        assert asked(task) == [("n", "", "a?"), ("u", "aba", "c"), ("v", "bc", "?a")]
        assert task.about["border"] == 7.0
        assert task.queries.times.tolist() == [7.0] * 3
        assert task.queries.users.tolist() == [-1, 0, 1]
        counts = {"users_new": 1, "items_new": 1, "answers_unknown": 2, "questions_without_history": 1}
        assert {name: task.about[name] for name in counts} == counts

    def test_repetitions_and_new_users_by_choice(self) -> None:
        task = temporal(events([*self.ROWS]), Splitting(test_share=0.5, exclude_seen=False, ask_new_users=False))
        assert asked(task) == [("u", "aba", "cb"), ("v", "bc", "?a")]
        assert not task.exclude_seen

    def test_it_needs_moments(self) -> None:
        with pytest.raises(MarqueeError, match="the split temporal needs moments"):
            temporal(events([*self.ROWS], timed=False), ALL)


class TestGivenSplit:
    def test_weak_generalisation(self, tmp_path: Path) -> None:
        (tmp_path / "train.txt").write_text("0 1 2\n1 2 3\n2 4\n")
        (tmp_path / "test.txt").write_text("0 3 3 2 9\n1\n2 1\n5 4\n")
        task = read_task("given-split", Files(tmp_path / "train.txt", tmp_path / "test.txt"))
        assert learnt(task) == {"0": "12", "1": "23", "2": "4"}
        # 2 is no new item of user 0, 9 is unknown, user 1 has nothing to find, user 5 nothing to be asked with.
        assert asked(task) == [("0", "12", "3?"), ("2", "4", "1"), ("5", "", "4")]
        assert task.exclude_seen
        assert task.about["files"] == ["train.txt", "test.txt"]

    def test_strong_generalisation(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text("uid,sid\n0,a\n0,b\n1,b\n")
        (tmp_path / "fold_in.csv").write_text("uid,sid\n7,b\n7,x\n8,a\n")
        (tmp_path / "held_out.csv").write_text("uid,sid\n7,a\n8,b\n8,x\n")
        files = Files(*(tmp_path / name for name in ("train.csv", "held_out.csv", "fold_in.csv")))
        with pytest.raises(MarqueeError, match=r"train.csv has no column for the item"):
            read_task("given-split", files)  # sid is a session more often than an item
        task = read_task("given-split", files, Reading(user="uid", item="sid"))
        assert asked(task) == [("7", "b", "a"), ("8", "a", "b?")]
        assert task.queries.users.tolist() == [-1, -1]
        assert (task.about["strong"], task.about["users_also_in_training"]) == (True, 0)

    def test_validation_draws_items_or_takes_the_newest(self) -> None:
        lists = "u:abcdefghij v:jihgfedcba w:a"
        test = events(spelled("u:k"))
        newest = validation_task(given_split(events(spelled(lists)), test, None, Splitting(test_share=0.3)), 0)
        assert asked(newest) == [("u", "abcdefg", "hij"), ("v", "jihgfed", "cba")]
        untimed = given_split(events(spelled(lists), timed=False), test, None, Splitting(test_share=0.3))
        drawn = [asked(validation_task(untimed, seed)) for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        for user, history, right in drawn[0]:
            assert (user, len(history), len(right)) in {("u", 7, 3), ("v", 7, 3)}
            assert sorted(history + right.replace("?", "")) == sorted(set(history + right) - {"?"})

    def test_validation_of_strong_generalisation_holds_users_out(self) -> None:
        rows = [
            (f"u{number:02d}", item, float(place)) for number in range(20) for place, item in enumerate("abcdefghij")
        ]
        histories, test = events(spelled("x:abc")), events(spelled("x:d"))
        task = given_split(events(rows), test, histories, Splitting(test_share=0.25))
        held = validation_task(task, 3)
        assert held.train.user_count == 15
        assert len(held.queries) == 5
        assert not set(held.queries.histories.user_ids) & set(held.train.user_ids)
        assert {(history, right) for _, history, right in asked(held)} == {("abcdefgh", "ij")}


class TestChoices:
    def test_fewer_questions_are_drawn_with_the_seed(self) -> None:
        rows = [(f"u{number:02d}", item, float(place)) for number in range(30) for place, item in enumerate("abcd")]
        drawn = [asked(leave_one_out(events(rows), Splitting(most_queries=5, seed=seed))) for seed in (0, 0, 1)]
        assert drawn[0] == drawn[1] != drawn[2]
        assert len(drawn[0]) == 5
        task = leave_one_out(events(rows), Splitting(most_queries=5))
        assert (task.about["questions"], task.about["questions_possible"]) == (5, 30)
        assert task.about["splitting"]["most_queries"] == 5
        rows = [(user, item, 10.0 * int(user[1:]) + at) for user, item, at in rows]
        by_session = sessions(events(rows, by_session=True), Splitting(most_queries=5, test_share=0.5))
        assert (by_session.about["questions"], by_session.about["prefixes"]) == (5, 45)

    @pytest.mark.parametrize(
        ("protocol", "files", "splitting", "says"),
        [
            (
                "random",
                Files(Path("a")),
                Splitting(),
                "there is no protocol 'random'; there are sessions, leave-one-out",
            ),
            ("temporal", Files(Path("a"), Path("b")), Splitting(), "temporal splits one file itself"),
            ("sessions", Files(Path("a"), None, Path("b")), Splitting(), "sessions takes no separate histories"),
            ("given-split", Files(Path("a")), Splitting(), "given-split needs a test file"),
        ],
    )
    def test_mistakes(self, protocol: str, files: Files, splitting: Splitting, says: str) -> None:
        with pytest.raises(MarqueeError, match=says):
            read_task(protocol, files, None, splitting)

    @pytest.mark.parametrize("wrong", [{"test_share": 0.0}, {"test_share": 1.0}, {"test_days": -1.0}])
    def test_wrong_choices(self, wrong: dict[str, float]) -> None:
        with pytest.raises(MarqueeError, match=r"share|days"):
            Splitting(**wrong)  # type: ignore[arg-type]

    def test_days_need_moments(self, tmp_path: Path) -> None:
        (tmp_path / "sessions.txt").write_text("1 2\n2 1\n")
        with pytest.raises(MarqueeError, match="have no moments, so the test cannot be some days"):
            read_task("sessions", Files(tmp_path / "sessions.txt"), None, Splitting(test_days=1, least_item_events=1))

    def test_no_known_item_in_the_test_is_said(self, tmp_path: Path) -> None:
        (tmp_path / "train.txt").write_text("1 2\n2 1\n")
        (tmp_path / "pairs.txt").write_text("8\t9\n")
        with pytest.raises(MarqueeError, match="leaves no question to ask"):
            read_task("sessions", Files(tmp_path / "train.txt", tmp_path / "pairs.txt"))


def real(name: str) -> Path:
    if not (DATA / name).exists():
        pytest.skip(f"{name} is not under {DATA}; set MARQUEE_DATA to the folder that holds it")
    return DATA / name


def test_diginetica_as_everybody_splits_it() -> None:
    files = Files(real("diginetica/train_sessions.plain.txt.gz"), real("diginetica/test_pairs.plain.txt.gz"))
    task = read_task("sessions", files)
    counts = {"events": 906_140, "users": 186_670, "items": 43_097, "questions": 60_858, "pairs_unknown": 0}
    assert {name: task.about[name] for name in counts} == counts
    assert len(np.unique(task.queries.histories.user_ids)) == 15_963
    held = validation_task(task, 0)
    assert held.about["sessions_in_test"] == 18_667  # a tenth, rounded up


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["sessions", "leave-one-out", "temporal"])
def test_a_news_portal(protocol: str) -> None:
    task = read_task(protocol, Files(real("globo_clicks/clicks")), Reading(until="2017-10-18"))
    assert len(task.queries) > 50_000
    assert task.train.times.max() < task.about.get("border", np.inf)
