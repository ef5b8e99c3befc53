"""Synthetic sessions in worlds whose answer is known: they follow the model, copies are caught, and a gap is seen."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare, ks_2samp
from typer.testing import CliRunner

from marquee.cli import app
from marquee.errors import MarqueeError
from marquee.settings import Settings
from training.copies import are_copies, copy_report, longest_runs
from training.interactions import Floats, Interactions, Ints, Queries, from_events
from training.likelihood import sequence_model, surprise
from training.realism import Judging, closeness, judge_synthetic, split_sessions, utility
from training.realism_page import lines, realism_page
from training.recommender import PLAIN, Fitting
from training.synthetic import SamplingSettings, draw_items, sample_sessions, synthesise

pytestmark = pytest.mark.models
ITEMS = 40
NAMES = np.char.mod("i%03d", np.arange(ITEMS))
DAY = 86_400.0
SURE = 1e-4
"""Chance of a false alarm of each statistical test; all are seeded, so it is no chance at all once it passes."""


def transitions(seed: int) -> NDArray[np.float64]:
    """[I, I] chances of the next item: each item has some that follow it often."""
    return np.random.default_rng(seed).dirichlet(np.full(ITEMS, 0.1), ITEMS)


class Chain:
    """The truth itself: a first-order chain with these chances."""

    def __init__(self, chances: NDArray[np.float64]) -> None:
        self.item_ids = NAMES
        self.chances = chances

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        return self

    def log_probabilities(self, queries: Queries) -> Floats:
        histories = queries.histories
        assert (histories.lengths > 0).all()
        last = histories.items[histories.starts[1:] - 1]
        with np.errstate(divide="ignore"):
            return np.log(self.chances[last]).astype(np.float32)


class Parrot:
    """A model that goes on just as some session that began alike did."""

    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        self.item_ids = train.item_ids
        self.next: dict[bytes, int] = {}
        for start, stop in zip(train.starts[:-1], train.starts[1:], strict=True):
            for place in range(start + 1, stop):
                self.next[train.items[start:place].tobytes()] = int(train.items[place])
        return self

    def log_probabilities(self, queries: Queries) -> Floats:
        histories = queries.histories
        scores = np.full((len(queries), len(self.item_ids)), -np.inf, np.float32)
        for row, (start, stop) in enumerate(zip(histories.starts[:-1], histories.starts[1:], strict=True)):
            scores[row, self.next.get(histories.items[start:stop].tobytes(), 0)] = 0.0
        return scores


def world(count: int, chances: NDArray[np.float64], seed: int, least: int = 2) -> Interactions:
    """Sessions of the chain over ten days, from one of five first items, and of 2 to about 20 events."""
    rng = np.random.default_rng(seed)
    cumulative = np.cumsum(chances, axis=1)
    users, items, times = [], [], []
    for number in range(count):
        item, at = int(rng.integers(5)), rng.uniform(0, 10 * DAY)
        for _ in range(least - 1 + int(rng.geometric(0.25))):
            users.append(f"u{number:05d}")
            items.append(NAMES[item])
            times.append(at)
            item = int(min(np.searchsorted(cumulative[item], rng.random()), ITEMS - 1))
            at += rng.exponential(60.0)
    return from_events(np.array(users), np.array(items), np.array(times), item_ids=NAMES)


def of_items(paths: list[list[int]], names: NDArray[Any] = NAMES) -> Interactions:
    users = np.repeat(np.char.mod("u%05d", np.arange(len(paths))), [len(path) for path in paths])
    items = np.array([item for path in paths for item in path], dtype=np.int64)
    return from_events(users, names[items], np.arange(len(items)) * 60.0, item_ids=names)


def steps(sessions: Interactions) -> NDArray[np.float64]:
    """[I, I] how often each item followed each."""
    users = sessions.users
    places = np.flatnonzero(users[1:] == users[:-1])
    counts = np.zeros((ITEMS, ITEMS))
    np.add.at(counts, (sessions.items[places], sessions.items[places + 1]), 1)
    return counts


def fits(counts: NDArray[np.float64], chances: NDArray[np.float64]) -> float:
    """p of a χ² test that steps follow these chances; cells with less than 5 expected are one a row."""
    statistic, freedom = 0.0, 0
    for row, chance in zip(counts, chances, strict=True):
        expected = chance * row.sum()
        big = expected >= 5
        if big.sum() < 2 or row.sum() == 0:
            continue
        seen = np.append(row[big], row[~big].sum())
        due = np.append(expected[big], max(expected[~big].sum(), 1e-9))
        keep = due >= 1
        statistic += float(((seen - due)[keep] ** 2 / due[keep]).sum())
        freedom += int(keep.sum()) - 1
    assert freedom > 50
    from scipy.stats import chi2

    return float(chi2.sf(statistic, freedom))


@pytest.fixture(scope="module")
def real() -> Interactions:
    return world(3_000, transitions(0), 1)


def test_sampled_steps_follow_the_models_chances(real: Interactions) -> None:
    chances = transitions(0)
    made = sample_sessions(Chain(chances), real, SamplingSettings(), 5_000, np.random.default_rng(0))
    assert fits(steps(made), chances) > SURE
    assert fits(steps(made), 0.9 * chances + 0.1 / ITEMS) < SURE, "the test would not see a tenth of noise"


def test_steps_of_a_fitted_model_are_those_of_the_world(real: Interactions) -> None:
    model = sequence_model("markov", order=1).fit(real)
    made = sample_sessions(model, real, SamplingSettings(), 3_000, np.random.default_rng(0))
    theirs, ours = steps(real), steps(made)
    shares = [counts / counts.sum() for counts in (theirs, ours, steps(world(3_000, transitions(0), 2)))]
    apart = [float(np.abs(shares[0] - other).sum() / 2) for other in shares[1:]]
    assert apart[0] < 1.3 * apart[1]  # as close as another sample of the same world


def test_first_items_lengths_and_pauses_are_drawn_from_real_ones(real: Interactions) -> None:
    made = sample_sessions(Chain(transitions(0)), real, SamplingSettings(), 3_000, np.random.default_rng(1))
    assert made.user_count == 3_000
    firsts = [np.bincount(part.items[part.starts[:-1]], minlength=ITEMS)[:5] for part in (real, made)]
    assert chi2_contingency(np.array(firsts)).pvalue > SURE
    assert made.items[made.starts[:-1]].max() < 5
    assert ks_2samp(real.lengths, made.lengths).pvalue > SURE
    pauses = [np.diff(part.times)[part.users[1:] == part.users[:-1]] for part in (real, made)]
    assert ks_2samp(*pauses).pvalue > SURE
    assert (pauses[1] >= 0).all()
    assert made.times.min() >= real.times.min() - DAY
    short = sample_sessions(Chain(transitions(0)), real, SamplingSettings(longest=3), 500, np.random.default_rng(1))
    assert short.lengths.max() == 3


def test_the_same_seed_gives_the_same_sessions(real: Interactions) -> None:
    model = sequence_model("markov").fit(real)
    one, same, other = (synthesise(model, real, SamplingSettings(300, seed=seed)).sessions for seed in (1, 1, 2))
    assert np.array_equal(one.items, same.items)
    assert np.array_equal(one.times, same.times)
    assert not np.array_equal(one.items[:200], other.items[:200])
    assert len(set(one.user_ids)) == one.user_count == 300


def shares(chances: list[float], count: int = 20_000, **settings: float) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):
        rows = np.log(np.tile(np.array(chances, np.float32), (count, 1)))
    drawn = draw_items(rows, SamplingSettings(**settings), np.random.default_rng(0))  # type: ignore[arg-type]
    return np.bincount(drawn, minlength=len(chances)) / count


def test_temperature_and_nucleus_by_hand() -> None:
    """p = .5, .25, .15, .1. At temperature 1/2 as p²: .25, .0625, .0225, .01 of .345. Nucleus .7: .5 + .25 reach it."""
    p = [0.5, 0.25, 0.15, 0.1]
    assert shares(p) == pytest.approx(p, abs=0.02)
    assert shares(p, temperature=0.5) == pytest.approx(np.array([0.25, 0.0625, 0.0225, 0.01]) / 0.345, abs=0.02)
    assert shares(p, top_p=0.7) == pytest.approx([2 / 3, 1 / 3, 0, 0], abs=0.02)
    assert shares(p, top_p=0.7)[2:].tolist() == [0.0, 0.0]
    assert shares(p, top_p=0.4).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert shares(p, temperature=1e-3).tolist() == [1.0, 0.0, 0.0, 0.0]
    assert shares([0.0, 1.0, 0.0]).tolist() == [0.0, 1.0, 0.0]


@effort(max_examples=40, deadline=None)
@given(st.lists(st.integers(1, 1_000), min_size=2, max_size=12), st.floats(0.05, 0.95), st.integers(0, 10))
def test_a_nucleus_is_the_fewest_items_that_reach_its_chance(weights: list[int], top_p: float, seed: int) -> None:
    chances = np.array(weights, np.float64) / sum(weights)
    rows = np.log(np.tile(chances, (400, 1))).astype(np.float32)
    drawn = np.unique(draw_items(rows, SamplingSettings(top_p=top_p), np.random.default_rng(seed)))
    # An item may be drawn only if all that are likelier do not reach the chance by themselves.
    for item in drawn:
        assert chances[chances > chances[item]].sum() < top_p + 1e-5


@pytest.mark.parametrize(
    "wrong", [{"sessions": 0}, {"temperature": 0.0}, {"top_p": 0.0}, {"top_p": 1.1}, {"history": 0}]
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(MarqueeError, match=r"it takes 1 session|temperature must be above 0"):
        SamplingSettings(**wrong)  # type: ignore[arg-type]


def test_there_must_be_something_to_learn_from() -> None:
    nothing = of_items([[1]]).where(np.zeros(1, dtype=bool))
    with pytest.raises(MarqueeError, match="there is no session to learn from"):
        sample_sessions(Chain(transitions(0)), nothing, SamplingSettings(), 1, np.random.default_rng(0))
    with pytest.raises(MarqueeError, match="there is no session to learn from"):
        split_sessions(nothing, 0.5, True)
    with pytest.raises(MarqueeError, match="all sessions end at one moment"):
        split_sessions(from_events(np.array(["a", "b"]), np.array(["x", "x"]), np.zeros(2)), 0.5, True)


# --- copies ----------------------------------------------------------------------------------------------------------


def test_runs_and_copies_by_hand() -> None:
    """Of 1 2 3 4 and 5 6: 2 3 4 9 shares three, 1 2 3 4 is a copy, 3 4 5 6 shares two, 9 none, 4 3 one."""
    real = of_items([[1, 2, 3, 4], [5, 6]])
    made = of_items([[2, 3, 4, 9], [1, 2, 3, 4], [3, 4, 5, 6], [9], [4, 3], [5, 6], [1, 2, 3]])
    assert longest_runs(made, real).tolist() == [3, 4, 2, 0, 1, 2, 3]
    assert are_copies(made, real).tolist() == [False, True, False, False, False, True, False]
    assert longest_runs(made, real.take(np.zeros(0, np.int64))).tolist() == [0] * 7
    assert longest_runs(made.take(np.zeros(0, np.int64)), real).tolist() == []
    assert are_copies(made.take(np.zeros(0, np.int64)), real).tolist() == []


paths = st.lists(st.lists(st.integers(0, 4), min_size=1, max_size=7), min_size=1, max_size=8)


@effort(max_examples=80, deadline=None)
@given(paths, paths)
def test_runs_are_what_comparing_all_with_all_finds(ours: list[list[int]], theirs: list[list[int]]) -> None:
    def runs(path: list[int], length: int) -> set[tuple[int, ...]]:
        return {tuple(path[start : start + length]) for start in range(len(path) - length + 1)}

    expected = [
        max((k for k in range(1, len(path) + 1) if any(runs(path, k) & runs(other, k) for other in theirs)), default=0)
        for path in ours
    ]
    assert longest_runs(of_items(ours), of_items(theirs)).tolist() == expected
    assert are_copies(of_items(ours), of_items(theirs)).tolist() == [path in theirs for path in ours]


def test_a_model_that_repeats_sessions_is_caught_and_its_copies_are_dropped() -> None:
    even = np.random.default_rng(0).dirichlet(np.ones(ITEMS), ITEMS)  # so that real sessions are seldom alike
    sessions = world(4_000, even, 5)
    train, held_out = split_sessions(sessions.take(np.flatnonzero(sessions.lengths == 5)), 0.3, True)
    settings = SamplingSettings(200)
    parrot = synthesise(Parrot().fit(train), train, settings)
    found = copy_report(parrot.sampled, held_out, train, 3, 0)
    assert found["more_copied_than_real"]
    assert found["synthetic"]["copies"]["value"] > 0.9
    assert found["held_out"]["copies"]["value"] < 0.05
    assert found["distance_ratio"] < 0.1
    assert found["synthetic"]["pieces"]["value"] >= found["synthetic"]["copies"]["value"]
    left = parrot.sessions
    assert parrot.dropped > 1_000
    assert not (are_copies(left, train) & (left.lengths >= 3)).any()
    honest = synthesise(Chain(even), train, settings)
    fair = copy_report(honest.sampled, held_out, train, 3, 0)
    assert not fair["more_copied_than_real"]
    assert fair["distance_ratio"] == pytest.approx(1.0, abs=0.15)
    assert honest.sessions.user_count == 200
    kept = synthesise(Parrot().fit(train), train, SamplingSettings(200, least_copy=0))
    assert (kept.dropped, kept.sessions.user_count) == (0, 200)


def test_where_there_are_only_copies_nothing_is_left() -> None:
    train = of_items([[1, 2, 3, 4]] * 5)
    found = synthesise(Parrot().fit(train), train, SamplingSettings(10))
    assert (found.sessions.user_count, found.dropped) == (0, 100)
    assert found.sampled.user_count == 10


# --- use and closeness -----------------------------------------------------------------------------------------------


def test_synthetic_sessions_of_the_truth_serve_as_well_and_those_of_a_shuffled_world_do_not(
    real: Interactions,
) -> None:
    train, held_out = split_sessions(real, 0.2, True)
    judging = Judging(judge="markov", questions=2_000, seed=0)
    true = sample_sessions(Chain(transitions(0)), train, SamplingSettings(), train.user_count, np.random.default_rng(0))
    good = utility(true, train, held_out, judging)
    assert good["gap"]["low"] <= 0.01
    assert abs(good["gap"]["value"]) < 0.03
    assert good["real"]["value"] > good["popular"]["low"]
    rng = np.random.default_rng(3)
    shuffled = transitions(0)[rng.permutation(ITEMS)]
    wrong = sample_sessions(Chain(shuffled), train, SamplingSettings(), train.user_count, np.random.default_rng(0))
    bad = utility(wrong, train, held_out, judging)
    assert bad["gap"]["low"] > 0.05
    assert bad["sessions"] == good["sessions"] == train.user_count
    assert bad["real"] == good["real"]
    near, far = (closeness(part, train, held_out, 0) for part in (true, wrong))
    assert near["synthetic"]["transition_overlap"] > near["held_out"]["transition_overlap"] - 0.05
    assert far["synthetic"]["transition_overlap"] < near["synthetic"]["transition_overlap"] - 0.3
    assert near["sessions"] == min(train.user_count, held_out.user_count)


def test_a_set_of_sessions_is_just_like_itself(real: Interactions) -> None:
    found = closeness(real, real, real, 0)
    for side in ("synthetic", "held_out"):
        assert found[side]["popularity_overlap"] == pytest.approx(1.0)
        assert found[side]["transition_overlap"] == pytest.approx(1.0)
        assert found[side]["length_overlap"] == pytest.approx(1.0)
        assert found[side]["popularity_correlation"] == pytest.approx(1.0)


def test_closeness_by_hand() -> None:
    """Real: a b, a b. Made: a b, c c: items ½ ½ 0 against ¼ ¼ ½, steps ab 1 against ½: both overlap by half."""
    real, made = of_items([[0, 1], [0, 1]]), of_items([[0, 1], [2, 2]])
    found = closeness(made, real, real, 0)["synthetic"]
    assert found["popularity_overlap"] == pytest.approx(0.5)
    assert found["transition_overlap"] == pytest.approx(0.5)
    assert found["length_overlap"] == pytest.approx(1.0)
    assert found["items_covered"] == pytest.approx(3 / ITEMS)


def test_sessions_are_split_by_time_and_unknown_items_have_no_code() -> None:
    sessions = of_items([[1, 2], [1, 3], [2, 3], [3, 9]])
    train, held_out = split_sessions(sessions, 0.25, True)
    assert train.user_ids.tolist() == ["u00000", "u00001", "u00002"]
    assert held_out.user_ids.tolist() == ["u00003"]
    assert train.item_ids.tolist() == held_out.item_ids.tolist() == ["i001", "i002", "i003"]
    assert held_out.items.tolist() == [2, -1]
    assert longest_runs(held_out, train).tolist() == [1]


def test_the_report_is_json_and_a_page(real: Interactions) -> None:
    train, held_out = split_sessions(real, 0.2, True)
    model = sequence_model("markov", order=1).fit(train)
    made = synthesise(model, train, SamplingSettings(500))
    report = judge_synthetic(made, train, held_out, Judging(questions=500))
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    text = lines(report)
    assert any("gap" in line for line in text)
    assert any("no more than real ones are" in line for line in text)
    html = realism_page("500 <sessions>", report, made.sessions, train, held_out)
    assert html.count("data:image/png;base64,") == 4
    assert "500 &lt;sessions&gt;" in html
    assert "http" not in html


def test_sessions_too_short_for_copies_are_not_looked_at() -> None:
    pairs = of_items([[0, 1], [1, 2]] * 10)
    found = copy_report(pairs, pairs, pairs, 3, 0)
    assert json.loads(json.dumps(found, allow_nan=False))["synthetic"]["copies"] is None
    assert not found["more_copied_than_real"]


def test_nothing_but_copies_is_an_error_that_says_so() -> None:
    train, held_out = split_sessions(of_items([[1, 2, 3, 4]] * 20), 0.2, True)
    made = synthesise(Parrot().fit(train), train, SamplingSettings(10))
    with pytest.raises(MarqueeError, match="nothing but copies"):
        judge_synthetic(made, train, held_out, Judging(questions=500))
    assert made.sessions.user_count == 0


# --- the verb --------------------------------------------------------------------------------------------------------


def csv(folder: Path, sessions: Interactions) -> Path:
    rows = zip(sessions.user_ids[sessions.users], sessions.item_ids[sessions.items], sessions.times, strict=True)
    text = "\n".join(f"{user},{item},{time:.0f}" for user, item, time in rows)
    path = folder / "clicks.csv"
    path.write_text(f"session_id,item_id,timestamp\n{text}\n", encoding="utf-8")
    return path


def run(*words: object) -> Any:
    return CliRunner().invoke(app, ["sample-sessions", *map(str, words)])


def test_the_verb_writes_sessions_and_a_report(tmp_path: Path) -> None:
    sessions = world(600, transitions(0), 1)
    # Times since 1970 must look like seconds.
    data = csv(tmp_path, from_events(sessions.user_ids[sessions.users], sessions.item_ids[sessions.items], sessions.times + 1.7e9))  # fmt: skip  # noqa: E501
    out = tmp_path / "made" / "sessions.parquet"
    answer = run("--data", data, "--out", out, "--sessions", 200, "--seed", 3, "--json", "--set", "markov.order=2")
    assert answer.exit_code == 0, answer.output
    report = json.loads(answer.stdout)
    assert report["sessions"] == 200
    assert json.loads(out.with_suffix(".json").read_text())["utility"] == report["utility"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["sessions.html", "sessions.json", "sessions.parquet"]
    table = pq.read_table(out)
    assert table.column_names == ["session_id", "item_id", "timestamp"]
    assert len(table) == report["events"]
    assert len(set(table["session_id"].to_pylist())) == 200
    assert set(table["item_id"].to_pylist()) <= set(NAMES.tolist())
    assert 2020 < table["timestamp"][0].as_py().year < 2030
    again = tmp_path / "again.parquet"
    assert run("--data", data, "--out", again, "--sessions", 200, "--seed", 3, "--set", "markov.order=2").exit_code == 0
    assert pq.read_table(again).equals(table)


def test_sessions_without_times_keep_their_order(tmp_path: Path) -> None:
    sessions = world(400, transitions(0), 1)
    pieces = np.split(sessions.item_ids[sessions.items], sessions.starts[1:-1])
    data = tmp_path / "sessions.txt"
    data.write_text("\n".join(" ".join(piece) for piece in pieces) + "\n", encoding="utf-8")
    out = tmp_path / "made.parquet"
    answer = run("--data", data, "--format", "sessions", "--out", out, "--sessions", 50)
    assert answer.exit_code == 0, answer.output
    assert "50 sessions sampled from markov, learnt from sessions.txt" in answer.stdout
    rows = pq.read_table(out).to_pylist()
    assert [row["timestamp"] for row in rows if row["session_id"] == rows[0]["session_id"]][:2] == [0, 1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--out", "made.csv"], "give the name of a file that ends in .parquet"),
        (["--model", "ease"], "ease gives scores and no probabilities"),
        (["--model", "nobody"], "there is no model 'nobody'"),
        (["--judge", "nobody"], "there is no model 'nobody'"),
        (["--set", "ease.regularisation=3"], "--set names ease, which is not --model markov"),
        (["--temperature", "0"], "the temperature must be above 0"),
        (["--test-share", "1"], "the test share is 1"),
        (["--data", "gone.csv"], "there is no file gone.csv"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words: list[str], told: str, tmp_path: Path) -> None:
    data = csv(tmp_path, world(50, transitions(0), 1))
    given_words = ["--data", str(data), "--out", str(tmp_path / "made.parquet"), *words]
    error = run(*given_words).exception
    assert isinstance(error, MarqueeError), error
    assert told in str(error)
    assert len(str(error).splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["clicks.csv"]


@pytest.mark.tools
def test_without_data_the_installations_sessions_are_learnt(copied: Callable[[Path], Settings], tmp_path: Path) -> None:
    settings = copied(tmp_path / "home")
    out = tmp_path / "made.parquet"
    answer = run("--home", settings.home, "--out", out, "--sessions", 300, "--json")
    assert answer.exit_code == 0, answer.output
    report = json.loads(answer.stdout)
    assert report["source"] == "this installation's sessions"
    assert not report["copies"]["more_copied_than_real"]
    pages = set(pq.read_table(out)["item_id"].to_pylist())
    assert "/" in pages
    assert any(one.startswith("/product/") for one in pages)


def test_draws_of_one_item_are_even() -> None:
    """Equal chances give equal counts: χ² over 40 items."""
    rows = np.zeros((8_000, ITEMS), np.float32)
    drawn: Ints = draw_items(rows, SamplingSettings(), np.random.default_rng(2))
    assert chisquare(np.bincount(drawn, minlength=ITEMS)).pvalue > SURE


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("markov", {"order": 2}),
        ("gru4rec", {"dimensions": 16, "epochs": 1, "negatives": 0}),
        ("sasrec", {"dimensions": 16, "epochs": 1, "negatives": 0, "length": 20}),
    ],
)
def test_a_models_own_sessions_are_as_likely_as_it_expects(name: str, settings: dict[str, Any]) -> None:
    """To what it sampled itself a model is the truth: standardised surprise has mean 0 and deviation 1, and not to
    sessions of another world."""
    train = world(600, transitions(0), 1)
    model = sequence_model(name, **settings).fit(train)
    made = sample_sessions(model, train, SamplingSettings(longest=10), 1_200, np.random.default_rng(4))
    standardised = []
    for sessions in (made, world(600, np.random.default_rng(9).dirichlet(np.ones(ITEMS), ITEMS), 2)):
        found = surprise(model, sessions.take(np.flatnonzero(sessions.lengths > 1)), 10)
        standardised.append((found.found - found.expected) / np.sqrt(found.variance))
    own, foreign = standardised
    assert len(own) > 1_000
    assert abs(own.mean()) < 0.15
    assert own.std() == pytest.approx(1.0, abs=0.1)
    assert foreign.mean() > own.mean() + 0.5
