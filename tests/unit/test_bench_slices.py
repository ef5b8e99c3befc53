"""Questions judged apart, by history and by popularity."""

from __future__ import annotations

import numpy as np

from training.harness.slices import by_history, by_popularity, slices
from training.harness.task import Task, Truth
from training.interactions import Interactions, ask, from_events


def truth(*answers: list[int]) -> Truth:
    lengths = [len(one) for one in answers]
    return Truth(
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.array([item for one in answers for item in one], dtype=np.int64),
    )


def small() -> Interactions:
    """Events of items a to e: 4, 2, 1, 1, 0."""
    rows = ["ua", "ub", "va", "vb", "wa", "wc", "xa", "xd"]
    return from_events(
        np.array([row[0] for row in rows]),
        np.array([row[1] for row in rows]),
        np.arange(8.0),
        item_ids=np.array(list("abcde")),
    )


class TestSlices:
    def task(self) -> Task:
        """Histories of 0, 1, 2, 4, 5, 9, 10 and 25 events of item a."""
        lengths = [0, 1, 2, 4, 5, 9, 10, 25]
        train = small()
        asker = np.repeat([f"n{place}" for place in range(8)], lengths)
        histories = from_events(
            asker, np.full(sum(lengths), "a"), np.arange(float(sum(lengths))), item_ids=train.item_ids
        )
        joined = Interactions(
            np.array([f"n{place}" for place in range(8)]),
            train.item_ids,
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            histories.items,
            histories.times,
            histories.weights,
            histories.contexts,
        )
        right = truth([0], [1], [2, -1], [0, 1, 3], [4], [-1], [3, 0], [0])
        return Task("temporal", train, ask(joined, train), right, True)

    def test_by_length_of_history(self) -> None:
        found = {part.name: part.rows.tolist() for part in by_history(self.task())}
        assert found == {
            "history 0": [0],
            "history 1": [1],
            "history 2-4": [2, 3],
            "history 5-9": [4, 5],
            "history 10+": [6, 7],
        }

    def test_by_popularity_of_the_target(self) -> None:
        """a is the head, b the middle, c and d the tail, e and what nobody knows unseen."""
        found = {
            part.name: [part.truth.take(np.array([place])).items.tolist() for place in range(len(part.rows))]
            for part in by_popularity(self.task())
        }
        rows = {part.name: part.rows.tolist() for part in by_popularity(self.task())}
        assert rows == {
            "target unseen": [2, 4, 5],
            "target tail": [2, 3, 6],
            "target middle": [1, 3],
            "target head": [0, 3, 6, 7],
        }
        assert found == {
            "target unseen": [[-1], [4], [-1]],
            "target tail": [[2], [3], [3]],
            "target middle": [[1], [1]],
            "target head": [[0], [0], [0], [0]],
        }

    def test_every_answer_is_in_one_slice_of_each_kind(self) -> None:
        task = self.task()
        assert sum(len(part.rows) for part in by_history(task)) == len(task.truth)
        assert sum(len(part.truth.items) for part in by_popularity(task)) == len(task.truth.items)
        assert len(slices(task)) == 5 + 4
        assert all(len(part.rows) for part in slices(task.sample(np.array([7]))))
