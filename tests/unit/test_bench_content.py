"""What items and users are, as features, and how they get into a task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from marquee.errors import SourceError
from training.harness.columns import ITEMS
from training.harness.content import read_content
from training.harness.protocols import Files, read_task
from training.harness.questions import Splitting
from training.harness.slices import by_popularity
from training.harness.validation import validation_task


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_categories_lists_and_quantities(tmp_path: Path) -> None:
    genres = ["Action|Comedy", "Comedy", "Action|Drama", "", *["Comedy"] * 20]
    lines = [f"m{place:02d},{genre},{place if place else ''},{place}" for place, genre in enumerate(genres)]
    found = read_content(write(tmp_path / "a.csv", "\n".join(["movieId,genres,price,brand_id", *lines])), "", ITEMS)
    # Drama is one film's alone, and so is each brand, whose numbers are no quantity.
    assert found.names == ("genres=Action", "genres=Comedy", "price")
    table = found.matrix.toarray()
    assert table[:4, :2].tolist() == [[1, 1], [0, 1], [1, 0], [0, 0]]
    # Prices 1 to 23: mean 12, variance (23² - 1) / 12 = 44; the missing one is at the mean.
    np.testing.assert_allclose(table[:, 2], [0, *((price - 12) / np.sqrt(44) for price in range(1, 24))], atol=1e-6)


def test_rows_by_name(tmp_path: Path) -> None:
    text = "item_id;colour\nb;red\na;blue\nb;blue\nc;red\nd;blue\n;red\n"
    found = read_content(write(tmp_path / "a.csv", text), "sku", ITEMS)
    assert found.ids.tolist() == ["a", "b", "c", "d"]
    assert found.names == ("colour=blue", "colour=red")
    rows = found.rows(np.array(["b", "z", "a", "b"]))
    assert rows.toarray().tolist() == [[0, 1], [0, 0], [1, 0], [0, 1]]
    assert rows.dtype == np.float32


def test_without_a_header_the_first_column_names(tmp_path: Path) -> None:
    found = read_content(write(tmp_path / "movies.dat", "1::2000::A|B\n2::2000::A\n3::1999::B\n"), "", ITEMS)
    assert found.ids.tolist() == ["1", "2", "3"]
    assert found.names == ("1=2000", "2=A", "2=B")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour,stars\nred,1\n", "has no column for the name"),
        ("item_id,colour\n", "has no row"),
        ("item_id,colour\na,red,1\n", "line 2: 3 columns where there should be 2"),
        ("", "is empty"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(SourceError, match=f"items.csv.*{says}"):
        read_content(write(tmp_path / "items.csv", text), "size", ("itemid",))


@pytest.mark.parametrize("protocol", ["sessions", "leave-one-out", "temporal", "given-split"])
def test_items_that_came_later_are_known_by_their_content(tmp_path: Path, protocol: str) -> None:
    lines = [f"{user},{item},{place}" for place, (user, item) in enumerate(["ua", "ub", "va", "vb", "wa", "wb"])]
    later = [f"{user},{item},{9 + place}" for place, (user, item) in enumerate(["ux", "vx", "ua", "yb", "ya", "yx"])]
    head = "user_id,item_id,ts"
    data = [head, *lines] if protocol == "given-split" else [head, *lines, *later]
    files = Files(
        write(tmp_path / "events.csv", "\n".join(data)),
        write(tmp_path / "test.csv", "\n".join([head, *later])) if protocol == "given-split" else None,
        items=write(tmp_path / "items.csv", "item_id,colour\na,red\nb,red\nx,blue\nz,blue\n"),
        users=write(tmp_path / "users.csv", "user_id,city\nu,Rome\nv,Rome\nw,Bonn\ny,Bonn\n"),
    )
    task = read_task(protocol, files, None, Splitting(test_share=0.5, least_item_events=1, hold_validation=False))
    knows = protocol != "given-split"  # whose items are those of training
    assert task.train.item_ids.tolist() == (["a", "b", "x"] if knows else ["a", "b"])
    assert task.train.item_features.shape == (len(task.train.item_ids), 2)
    assert task.train.item_features.toarray()[:2].tolist() == [[0, 1], [0, 1]]
    assert task.queries.histories.item_features is task.train.item_features
    assert task.train.user_features.shape[0] == task.train.user_count
    cities = task.queries.histories.user_features.toarray()
    for name, city in zip(task.queries.histories.user_ids, cities.tolist(), strict=True):
        assert city == ([0, 1] if name[0] in "uv" else [1, 0])
    assert (task.about["answers_unknown"] == 0) is knows
    if protocol == "temporal":
        cold = next(part for part in by_popularity(task) if part.name == "target unseen")
        assert task.train.item_ids[cold.truth.items].tolist() == ["x"] * 3
    held = validation_task(task, 0)
    assert held.train.item_features.shape == (held.train.item_count, 2)
    assert len(task.about["files"]) == len(files.given)
