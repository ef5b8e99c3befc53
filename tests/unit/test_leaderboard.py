"""What is made of judged rows: their order, their differences, tables, files and pages; and how settings are read."""

from __future__ import annotations

import csv
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sparse

from marquee.errors import MarqueeError
from training.harness.bench import Row
from training.harness.judging import answers, judged
from training.harness.leaderboard import Board, conclusion, make_board, short_list, table_rows
from training.harness.model_list import chosen_models, listing, parse_settings, read_settings, typed, with_common
from training.harness.origin import Origin, name_of, read_origin
from training.harness.protocols import Files
from training.harness.questions import Splitting
from training.harness.reading import Reading
from training.harness.report import as_csv, as_json, as_page, require_free, write_report
from training.harness.robustness import measure_robustness
from training.harness.scaling import measure_scaling, measure_speed, popular_part, with_items
from training.harness.task import Task, Truth
from training.harness.task_files import load_task, save_task
from training.harness.tracking import flat, metric_name
from training.harness.tuning import Tuned, as_toml
from training.interactions import Floats, Interactions, Queries, ask, from_events
from training.models.popular import Popular
from training.recommender import Recommender

METRIC = "ndcg@2"
ASKERS = np.array(["a", "a", "b", "c"])
Values = list[float]


def row(model: str, values: Values, **result: Any) -> Row:
    """A finished row of four questions, asked by three people."""
    mean = sum(values) / len(values)
    metrics = {name: {"value": mean, "low": mean - 0.1, "high": mean + 0.1} for name in (METRIC, "mrr@2", "recall@2")}
    parts = [
        {"slice": "history 1", "questions": 1, "metrics": {METRIC: mean}},
        {"slice": "history 2-4", "questions": 3, "metrics": {METRIC: mean / 2}},
        {"slice": "target tail", "questions": 1, "metrics": {METRIC: mean}},
        {"slice": "target head", "questions": 3, "metrics": {METRIC: mean / 3}},
    ]
    cost = {"fit_s": 1.0, "epoch_s": 0.5, "epochs": 2, "peak_mb": 99.0, "own_mb": 9.0, "answer_s": 0.1, "losses": [2.0]}
    speed = {"items": 4, "p50_ms": 0.5, "p99_ms": 0.9, "per_second": 2000.0}
    plain = {"about": f"what {model} is", "settings": {"x": 1}, "metrics": metrics, "lists": {"coverage@2": 0.5}}
    curves = {"slices": parts, "robustness": [], "scaling": []}
    return Row(model, plain | curves | {"cost": cost, "speed": speed} | result, {METRIC: np.array(values)}, run_id="r1")


def board(*rows: Row) -> Board:
    return make_board(list(rows), METRIC, ASKERS, seed=3)


BEST = row("best", [1.0, 0.5, 1.0, 0.5])
POPULAR = row("popular", [0.5, 0.5, 0.0, 0.0])
FAILED = Row("failed", error="ValueError: <no way>", details="Traceback …", run_id="r2")
ABOUT = {
    "protocol": "sessions",
    "part": "test",
    "files": {"data": {"path": "/data/a & b.csv", "sha256": "0" * 64}},
    "exclude_seen": False,
    "split": {"events": 9, "users": 3, "items": 4, "questions": 4},
}


def test_rows_stand_best_first_ties_by_name_and_failed_ones_last() -> None:
    found = board(FAILED, POPULAR, row("other", [1.0, 0.5, 1.0, 0.5]), BEST)
    assert [one.model for one in found.rows] == ["best", "other", "popular", "failed"]
    assert [one.model for one in found.failed] == ["failed"]


def test_differences_are_paired() -> None:
    """Question by question popular lacks 1/2, 0, 1 and 1/2: 2/4 on average; the best has nothing to lose to itself."""
    found = board(POPULAR, BEST)
    assert set(found.to_best) == {"popular"}
    assert found.to_best["popular"]["value"] == -0.5
    assert found.to_baseline["best"]["value"] == 0.5
    # Whoever is drawn three times: a loses 1/4 a question, b 1, c 1/2, so nobody's draw is outside of these.
    assert -1.0 <= found.to_best["popular"]["low"] < -0.5 < found.to_best["popular"]["high"] <= -0.25
    same = board(BEST, row("other", [1.0, 0.5, 1.0, 0.5]))
    assert same.to_best["other"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert same.to_baseline == {}


def test_the_conclusion_tells_chance_from_difference() -> None:
    assert conclusion(board(BEST, POPULAR)).endswith("next is popular, -0.5000 [-1.000, -0.250].")
    close = conclusion(board(BEST, row("close", [1.0, 0.5, 0.5, 0.75])))
    assert "best is best: ndcg@2 0.7500 [0.650, 0.850]. Not told apart from it by these questions: close." in close
    assert conclusion(board(FAILED)) == "No model could be judged."
    assert conclusion(board(BEST)) == "best is best: ndcg@2 0.7500 [0.650, 0.850]."


def test_the_table_has_a_row_a_finished_model_and_no_cell_too_many() -> None:
    found = board(BEST, POPULAR, FAILED)
    assert short_list(found) == [METRIC, "recall@2", "mrr@2"]
    columns, cells = table_rows(found, short_list(found))
    assert len(cells) == 2
    assert all(len(line) == len(columns) for line in cells)
    assert dict(zip(columns, cells[1], strict=True))["to popular"] == "–"
    unmeasured = board(row("plain", [1.0, 1.0, 1.0, 1.0], speed={}))
    assert table_rows(unmeasured, [METRIC])[1][0][-1] == "–"


def test_csv_has_a_line_a_model_and_json_everything() -> None:
    found = board(BEST, POPULAR, FAILED)
    lines = list(csv.DictReader(as_csv(found).splitlines()))
    assert [line["model"] for line in lines] == ["best", "popular", "failed"]
    assert float(lines[1]["to_best.value"]) == -0.5
    assert lines[0][f"{METRIC}.low"] == "0.65"
    assert lines[2]["error"] == "ValueError: <no way>"
    assert lines[2][METRIC] == ""
    told = json.loads(as_json(found, ABOUT))
    assert [one["model"] for one in told["rows"]] == ["best", "popular", "failed"]
    assert told["rows"][1]["slices"][0]["slice"] == "history 1"


def test_json_has_no_nan() -> None:
    text = as_json(board(row("best", [1.0, 1.0, 1.0, 1.0], lists={"diversity@2": math.nan})), ABOUT)
    assert "NaN" not in text
    assert json.loads(text)["rows"][0]["lists"] == {"diversity@2": None}


def test_the_page_needs_nothing_outside_itself_and_escapes_what_it_shows() -> None:
    points = [{"kind": kind, "share": 0.3, "value": 0.1, "kept": 0.5} for kind in ("dropped", "flipped", "delayed")]
    sizes = [{"share": s, "items": n, "p50_ms": 1.0, "p99_ms": 2.0, "per_second": 9.0} for s, n in ((0.25, 1), (1, 4))]
    measured = row("best", [1.0, 0.5, 1.0, 0.5], robustness=points, scaling=sizes)
    page = as_page(board(measured, POPULAR, FAILED), ABOUT)
    assert page.count("<img ") == page.count('src="data:image/png;base64,') == 6
    assert not re.findall(r"(?:src|href)=\"(?!data:)|@import|<script|https?://", page)
    assert "a &amp; b.csv" in page
    assert "ValueError: &lt;no way&gt;" in page
    assert "<no way>" not in page
    # Without robustness, scaling and a second slice those plots are not drawn.
    assert as_page(board(row("best", [1.0] * 4, slices=[])), ABOUT).count("<img ") == 2
    assert "No model could be judged" in as_page(board(FAILED), ABOUT)


def test_a_report_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "report"
    write_report(board(BEST, FAILED), ABOUT, folder)
    assert sorted(path.name for path in folder.iterdir()) == ["errors", "report.html", "results.csv", "results.json"]
    assert (folder / "errors" / "failed.txt").read_text().startswith("ValueError: <no way>\n\nTraceback")
    before = (folder / "report.html").read_text()
    with pytest.raises(KeyError):
        write_report(board(POPULAR), {}, folder)
    assert (folder / "report.html").read_text() == before
    require_free(folder)
    write_report(board(POPULAR), ABOUT, folder)
    assert "popular" in (folder / "report.html").read_text()
    assert [path.name for path in folder.parent.iterdir()] == ["report"]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(MarqueeError, match=r"holds thesis\.tex, which is no report of ours"):
        require_free(tmp_path)
    with pytest.raises(MarqueeError, match="is a file"):
        require_free(tmp_path / "thesis.tex")


def test_settings_are_read_from_the_text_of_a_model_file() -> None:
    found = listing("ease:strong")
    assert (found.name, found.about) == ("ease", "linear item-to-item model in closed form")
    kinds = {one.name: one.kind for one in found.settings}
    assert (kinds["regularisation"], kinds["weighted"]) == ("float", "bool")
    assert {one.name: one.default for one in found.settings}["weighted"] is False
    assert all(one.about for one in found.settings)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("ease.regularisation=200", {"ease": {"regularisation": 200.0}}),
        ("ease.weighted=true", {"ease": {"weighted": True}}),
        ("ease:strong.regularisation = 1e3", {"ease:strong": {"regularisation": 1000.0}}),
    ],
)
def test_a_setting_of_the_command_line_gets_its_type(text: str, value: dict[str, Any]) -> None:
    found = parse_settings([text])
    assert found == value
    assert [type(one) for one in next(iter(found.values())).values()] == [
        type(one) for one in next(iter(value.values())).values()
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ease", "write it as model.setting=value"),
        ("ease.regularisation", "write it as model.setting=value"),
        ("easy.x=1", "there is no model 'easy'"),
        ("ease.colour=1", "ease has no setting 'colour'; it has .*regularisation"),
        ("ease.regularisation=much", "ease.regularisation takes a number, not 'much'"),
        ("ease.weighted=2", "ease.weighted takes true or false, not 2"),
    ],
)
def test_a_wrong_setting_is_named(text: str, said: str) -> None:
    with pytest.raises(MarqueeError, match=said):
        parse_settings([text])


def test_models_are_chosen_by_name() -> None:
    assert chosen_models("ease, popular,ease") == ["ease", "popular"]
    assert chosen_models("ease:a,ease:b") == ["ease:a", "ease:b"]
    assert {"ease", "popular"} < set(chosen_models("all"))
    with pytest.raises(MarqueeError, match=r"there is no model 'easy'; there are .*ease"):
        chosen_models("easy")
    with pytest.raises(MarqueeError, match="--models names none"):
        chosen_models(" , ")


def test_common_settings_reach_the_models_that_have_them_and_give_way_to_chosen_ones() -> None:
    chosen = {"ease": {"regularisation": 3.0}}
    assert with_common(["ease", "popular"], chosen, regularisation=7, days=2) == {
        "ease": {"regularisation": 3.0},
        "popular": {"days": 2.0},
    }
    assert typed("ease", "regularisation", 2) == 2.0


def test_what_tuning_writes_can_be_read(tmp_path: Path) -> None:
    found = [
        Tuned("ease:a", {"regularisation": 1e-05, "weighted": True}, 0.25, 0.2, 7, "abc"),
        Tuned("popular", note="its file names no settings to search"),
    ]
    file = tmp_path / "best.toml"
    file.write_text(as_toml(found, METRIC, "events.csv"))
    assert "# ndcg@2 0.2500, defaults 0.2000, 7 tried\n# run abc\n" in file.read_text()
    assert read_settings(file) == {"ease:a": {"regularisation": 1e-05, "weighted": True}, "popular": {}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = [", "not valid TOML"),
        ("x = 1", "x stands outside a table"),
        ("[ease]\ncolour = 1", r"file\.toml: ease has no setting 'colour'"),
        ("[easy]\nx = 1", r"file\.toml: there is no model 'easy'"),
    ],
)
def test_a_wrong_settings_file_is_named(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "file.toml").write_text(text)
    with pytest.raises(MarqueeError, match=said):
        read_settings(tmp_path / "file.toml")
    with pytest.raises(MarqueeError, match="No such file"):
        read_settings(tmp_path / "other.toml")


def test_names_fit_mlflow() -> None:
    assert metric_name("ndcg@10") == "ndcg_at_10"
    assert metric_name("cost.fit_s") == "cost.fit_s"
    assert flat({"a": {"b": 1, "c": [2, 3]}, "d": None}) == {"a.b": 1, "a.c": "2,3", "d": None}


class Fixed(Recommender):
    """Gives each item its code as score, and items from ``limit`` on none at all; knows no user."""

    Settings = Popular.Settings
    about = "fixed"

    def fit(self, train: Interactions, fitting: Any = None) -> Fixed:
        self.item_ids, self.limit = train.item_ids, train.item_count
        return self

    def score(self, queries: Queries) -> Floats:
        items = np.arange(len(self.item_ids), dtype=np.float32)
        return np.tile(np.where(items < self.limit, items, -np.inf).astype(np.float32), (len(queries), 1))

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None: ...


def small_task() -> Task:
    """Four items, taken 1, 2, 3 and 4 times; u1 and u2 are asked, and the right answers are i3, and i0 with i2."""
    users, items = ["u1", "u1", "u1", "u2", "u2", "u2", "u3", "u3", "u3", "u3"], [0, 1, 2, 1, 2, 3, 2, 3, 3, 3]
    named = np.array([f"i{item}" for item in items])
    train = from_events(np.array(users), named, np.arange(10) * 60.0)
    queries = ask(train.take(np.array([0, 1])), train)
    return Task("given-split", train, queries, Truth(np.array([0, 1, 3]), np.array([3, 0, 2])), True, {"x": 1})


def test_what_a_model_cannot_say_is_no_answer() -> None:
    """u1 has taken i0 to i2 and only i3 is left; u2 has taken i1 to i3 and only i0 is; lists are longer than that."""
    task = small_task()
    model = Fixed().fit(task.train)
    assert answers(model, task, 6).tolist() == [[3, -1, -1, -1, -1, -1], [0, -1, -1, -1, -1, -1]]
    model.limit = 3
    assert answers(model, task, 2).tolist() == [[-1, -1], [0, -1]]


def test_a_row_is_judged_by_hand() -> None:
    """u1's answer stands first: 1. u2 finds i0 first and misses i2: 1 / (1 + 1/log2 3) of NDCG, 1/2 of recall."""
    task = small_task()
    told, values = judged(answers(Fixed().fit(task.train), task, 2), task, (2,), seed=1)
    expected = 1 / (1 + 1 / math.log2(3))
    np.testing.assert_allclose(values["ndcg@2"], [1.0, expected])
    np.testing.assert_allclose(values["recall@2"], [1.0, 0.5])
    assert told["metrics"]["ndcg@2"]["value"] == pytest.approx((1 + expected) / 2)
    assert told["lists"]["coverage@2"] == 2 / 4
    assert {one["slice"]: one["questions"] for one in told["slices"]} == {
        "history 2-4": 2,
        "target tail": 1,
        "target middle": 1,
        "target head": 1,
    }


def test_parts_of_the_catalogue_are_its_most_popular_items() -> None:
    task = small_task()
    part = popular_part(task, 0.5)
    assert part.train.item_ids.tolist() == ["i2", "i3"]
    # u1 keeps i2; u2 keeps i2 and i3; u3 had nothing else.
    assert part.train.items.tolist() == [0, 0, 1, 0, 1, 1, 1]
    assert part.train.lengths.tolist() == [1, 2, 4]
    assert part.queries.histories.items.tolist() == [0, 0, 1]
    whole = popular_part(task, 1.0)
    assert whole.train.items.tolist() == task.train.items.tolist()
    content = Interactions(*(getattr(task.train, name) for name in PLAIN), item_features=sparse.csr_matrix(np.eye(4)))
    some = with_items(content, np.array([1, 3]))
    assert some.item_features.toarray().tolist() == [[0, 1, 0, 0], [0, 0, 0, 1]]


PLAIN = ("user_ids", "item_ids", "starts", "items", "times", "weights", "contexts")


def test_speed_is_measured_over_each_part() -> None:
    task = small_task()
    fits: list[int] = []

    def fit(train: Interactions) -> Recommender:
        fits.append(train.item_count)
        return Fixed().fit(train)

    found = measure_scaling(Fixed().fit(task.train), fit, task, k=20, seed=0)
    assert [one["items"] for one in found] == [1, 1, 4]
    assert fits == [1, 1], "the whole catalogue has its model already"
    assert all(one["p99_ms"] >= one["p50_ms"] > 0 and one["per_second"] > 0 for one in found)
    assert measure_speed(Fixed().fit(task.train), task, 2, 0).items == 4


def test_robustness_keeps_all_of_nothing_disturbed_and_what_is_left_of_the_rest() -> None:
    """Popularity reads no history, so it keeps everything, but for items that it then no longer knows to be seen."""
    task = small_task()
    fits: list[int] = []

    def fit(train: Interactions) -> Recommender:
        fits.append(len(train))
        return Popular().fit(train)

    model = Popular().fit(task.train)
    found = measure_robustness(model, task, (0.0, 1.0), "recall@1", 0)
    assert [(one["kind"], one["share"]) for one in found] == [
        *(("dropped", 0.0), ("dropped", 1.0), ("flipped", 0.0), ("flipped", 1.0), ("delayed", 0.0), ("delayed", 1.0)),
    ]
    assert [one["kept"] for one in found if one["share"] == 0.0] == [1.0, 1.0, 1.0]
    # With no history nothing is left out, and both are recommended i3: right for u1 (1), not for u2 (0); 3/4 before.
    dropped = next(one for one in found if one["kind"] == "dropped" and one["share"] == 1.0)
    assert (dropped["value"], dropped["kept"]) == (0.5, pytest.approx(0.5 / 0.75))
    measure_robustness(model, task, (0.3,), "recall@1", 0, fit)
    # Of ten events 3 are dropped and none is lost by flipping; of 3, 3 and 4 come .9, .9 and 1.2 late, each rounded.
    assert fits[:2] == [7, 10]
    assert 6 <= fits[2] <= 9


def test_a_task_on_disk_is_the_same_task(tmp_path: Path) -> None:
    task = small_task()
    features = sparse.random(4, 5, 0.5, format="csr", random_state=1)
    train = Interactions(*(getattr(task.train, name) for name in PLAIN), item_features=features)
    users = sparse.csr_matrix(np.arange(2.0)[:, None])
    asked = Interactions(*(getattr(task.queries.histories, name) for name in PLAIN), features, users)
    queries = Queries(asked, task.queries.users, task.queries.times, task.queries.contexts)
    save_task(Task(task.protocol, train, queries, task.truth, task.exclude_seen, task.about), tmp_path)
    again = load_task(tmp_path)
    compared = 0
    for one, other in ((train, again.train), (asked, again.queries.histories)):
        for name in PLAIN:
            assert np.array_equal(getattr(one, name), getattr(other, name)), name
            assert getattr(one, name).dtype == getattr(other, name).dtype
            compared += 1
        assert (one.item_features != other.item_features).nnz == 0
    assert compared == 14
    assert again.queries.histories.user_features.toarray().tolist() == [[0.0], [1.0]]
    assert again.train.user_features is None
    assert np.array_equal(again.truth.items, task.truth.items)
    assert (again.protocol, again.exclude_seen, again.about) == (task.protocol, task.exclude_seen, task.about)


def test_an_origin_makes_the_same_task_or_says_why_not(tmp_path: Path) -> None:
    file, moved = tmp_path / "events.csv", tmp_path / "moved.csv"
    lines = [f"u{user},i{item},{1_600_000_000 + 60 * (4 * user + item)}" for user in range(5) for item in range(4)]
    file.write_text("user_id,item_id,timestamp\n" + "\n".join(lines))
    origin = Origin("leave-one-out", Files(file), Reading(first_only=True), Splitting(seed=5))
    plain = json.loads(json.dumps(origin.described()))
    assert read_origin(plain) == origin
    assert read_origin(plain).task().about == origin.task().about
    file.rename(moved)
    with pytest.raises(MarqueeError, match=r"data file .*events\.csv is gone; --data says where it is now"):
        read_origin(plain)
    assert read_origin(plain, moved).files.data == moved
    elsewhere = Origin("leave-one-out", Files(moved), Reading(first_only=True), Splitting(seed=5)).described()
    assert name_of(elsewhere) == name_of(plain)
    assert name_of({**elsewhere, "splitting": {"seed": 6}}) != name_of(plain)
    moved.write_text(moved.read_text().replace("i3", "i2"))
    with pytest.raises(MarqueeError, match=r"moved\.csv is not the file of that run: sha256 "):
        read_origin(plain, moved)
