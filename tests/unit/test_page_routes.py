"""The routes for pages on a bare application: what comes next, what is recommended, and what the model holds."""

from __future__ import annotations

import html
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from marquee.settings import Settings
from serving.http.access import needed_scope
from serving.http.pages import router
from serving.http.problems import MEDIA_TYPE, Problem, faults, invalid
from serving.page_schemas import LONGEST_PATH, MOST_NEXT, NextRequest
from serving.pages import PageAnswers
from training.pages.network_page import network_page, write_network
from training.pages.page_fitting import PageChoices, fit_pages, quality
from training.pages.page_model import PageModel
from training.pages.reading import paths_of

NEXT, GRAPH, CLUSTERS, POLICY = (f"/v1/pages/{name}" for name in ("next", "graph", "clusters", "policy"))
PAGES = ("/", "/outlet", "/advice", "/till", "/jobs", "/jobs/<cook>")
# Of ten sessions from the start, six go on to the outlet and leave, two to the advice and so to the till, where they
# buy for 50, and two leave. Others look for a job.
SESSIONS = [*[["/", "/outlet"]] * 6, *[["/", "/advice", "/till"]] * 2, *[["/"]] * 2, *[["/jobs", "/jobs/<cook>"]] * 3]


@cache
def model() -> PageModel:
    sessions = SESSIONS * 40
    codes = np.array([PAGES.index(page) for one in sessions for page in one])
    numbers = np.repeat(np.arange(len(sessions)), [len(one) for one in sessions])
    begun = np.arange(len(codes)) * 9_000_000
    paths = paths_of(PAGES, codes, numbers, numbers, begun, begun, np.where(codes == PAGES.index("/till"), 50.0, 0.0))
    return fit_pages(paths, PageChoices(), 7)


@dataclass
class Worker:
    """What the routes ask of a worker."""

    model: PageModel | None

    def __post_init__(self) -> None:
        standing = SimpleNamespace(tag="banner_bundle:1", trained=SimpleNamespace(pages=self.model))
        self.pages = PageAnswers(lambda: standing)  # type: ignore[arg-type,return-value]


def client(model: PageModel | None) -> TestClient:
    app = FastAPI()
    app.include_router(router)
    app.state.worker = Worker(model)

    @app.exception_handler(Problem)
    def told(_: Request, problem: Problem) -> Response:
        return Response(problem.body("r"), problem.status, problem.headers, MEDIA_TYPE)

    @app.exception_handler(RequestValidationError)
    def unfit(request: Request, error: RequestValidationError) -> Response:
        return told(request, invalid(faults(error.errors())))

    return TestClient(app)


def following(*path: str, n: int = 5) -> Any:
    answer = client(model()).post(NEXT, json={"path": path, "n": n})
    assert answer.status_code == 200, answer.text
    return answer.json()


def get(path: str, **asked: Any) -> Any:
    answer = client(model()).get(path, params=asked)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_what_is_probable_and_what_is_worth_recommending_differ() -> None:
    told = following("/")
    assert (told["fallback"], told["current"], told["bundle"]) == (None, "/", "banner_bundle:1")
    assert [one["page"] for one in told["next"][:2]] == ["/outlet", "/advice"]
    assert told["next"][0]["probability"] == pytest.approx(6 / 8, abs=0.01)
    advice = told["recommended"]
    assert advice["page"] == "/advice"
    assert 0.2 < advice["probability"] < 0.3, "a fifth go there by themselves, a twentieth of the others follow"
    assert advice["gain"] > 1.0
    assert f"adds {advice['gain']:.2f} " in advice["reasons"][0]
    assert f"orders of {advice['value']:.2f} are expected from there on; so far they were 50.00" in advice["reasons"][1]
    assert advice["reasons"][2] == f"{advice['probability']:.1%} go there next when it is recommended"
    assert "of the visits end here" in advice["reasons"][3]


def test_the_whole_path_counts_for_what_is_probable() -> None:
    assert following("/", "/advice")["next"][0]["page"] == "/till"
    assert len(following("/", n=1)["next"]) == 1


def test_where_nothing_is_gained_nothing_is_recommended() -> None:
    told = following("/till")
    assert (told["fallback"], told["recommended"], told["current"]) == ("nothing_to_recommend", None, "/till")


def test_a_page_that_nobody_knows_is_answered_by_what_is_popular_and_says_so() -> None:
    told = following("/", "/brand-new")
    assert (told["fallback"], told["current"], told["recommended"]) == ("unknown_page", None, None)
    assert told["next"]


def test_a_bundle_without_a_page_model_says_so_everywhere() -> None:
    without = client(None)
    answers = [without.post(NEXT, json={"path": ["/"]})]
    answers += [without.get(path) for path in (GRAPH, CLUSTERS, POLICY)]
    answers += [without.get(path, params={"page": "/nowhere"}) for path in (GRAPH, POLICY)]
    for answer in answers:
        told = answer.json()
        assert (answer.status_code, told["fallback"]) == (200, "no_page_model")
        assert not any(told.get(name) for name in ("next", "recommended", "nodes", "edges", "items"))


def test_the_network_is_the_steps_and_the_pages_they_join() -> None:
    told = get(GRAPH)
    counts = {(edge["from_page"], edge["to_page"]): edge["count"] for edge in told["edges"]}
    assert counts[("/", "/outlet")] == 240
    assert list(counts.values()) == sorted(counts.values(), reverse=True)
    assert {node["page"] for node in told["nodes"]} == {page for step in counts for page in step}
    start = next(node for node in told["nodes"] if node["page"] == "/")
    assert (start["visit_count"], start["entry_count"], start["mean_seconds"]) == (400, 400, 9.0)
    assert start["bounce_rate"] == pytest.approx(2 / 10)
    assert start["page_value"] == pytest.approx(10.0), "a fifth of the sessions buys for 50"
    assert start["value"] > 10.0


def test_the_network_of_a_page_and_of_a_cluster() -> None:
    own = get(GRAPH, page="/advice")
    assert {(one["from_page"], one["to_page"]) for one in own["edges"]} == {("/", "/advice"), ("/advice", "/till")}
    shop, jobs = (one["cluster"] for one in (own["nodes"][0], get(GRAPH, page="/jobs")["nodes"][0]))
    assert shop != jobs
    assert [edge["to_page"] for edge in get(GRAPH, cluster=jobs)["edges"]] == ["/jobs/<cook>"]
    assert get(GRAPH, cluster=shop, page="/jobs")["edges"] == []


def test_clusters_have_their_figures_the_most_visited_first() -> None:
    told = get(CLUSTERS)
    assert [(one["visit_count"], one["pages"]) for one in told["items"]] == [
        (640, ["/", "/outlet"]),
        (240, ["/jobs", "/jobs/<cook>"]),
        (160, ["/advice", "/till"]),
    ]
    assert [(one["page"], one["page_count"]) for one in told["items"]] == [("/", 2), ("/jobs", 2), ("/advice", 2)]


def test_the_policy_of_all_pages_and_of_one() -> None:
    told = get(POLICY)
    assert [row["page"] for row in told["items"]][:2] == ["/", "/outlet"]
    assert {row["page"] for row in told["items"]} == {*PAGES}
    (row,) = get(POLICY, page="/")["items"]
    assert row == told["items"][0]
    advice = following("/")["recommended"]
    assert row["recommended"] == {name: advice[name] for name in ("page", "gain", "value", "probability")}
    assert get(POLICY, page="/till")["items"][0]["recommended"] is None


@pytest.mark.parametrize(("path", "listed"), [(GRAPH, "edges"), (CLUSTERS, "items"), (POLICY, "items")])
def test_pages_of_a_list_make_up_the_whole(path: str, listed: str) -> None:
    whole, found, cursor = get(path), [], 0
    assert whole["next_cursor"] is None
    while cursor is not None:
        told = get(path, limit=1, cursor=cursor)
        assert len(told[listed]) == 1
        found += told[listed]
        cursor = told["next_cursor"]
    assert found == whole[listed]
    assert get(path, cursor=1_000)[listed] == []


@pytest.mark.parametrize(
    ("path", "asked", "named"),
    [
        (GRAPH, {"page": "/nowhere"}, "page /nowhere"),
        (GRAPH, {"cluster": 9}, "cluster 9"),
        (GRAPH, {"page": "/", "cluster": 9}, "page / in cluster 9"),
        (POLICY, {"page": "/nowhere"}, "page /nowhere"),
    ],
)
def test_what_there_is_not_is_named(path: str, asked: dict[str, Any], named: str) -> None:
    answer = client(model()).get(path, params=asked)
    assert (answer.status_code, answer.json()["detail"]) == (404, f"there is no {named}")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({}, "path"),
        ({"path": []}, "path"),
        ({"path": ["/"] * (LONGEST_PATH + 1)}, "path"),
        ({"path": ["/", ""]}, "path[1]"),
        ({"path": ["/"], "n": 0}, "n"),
        ({"path": ["/"], "n": MOST_NEXT + 1}, "n"),
        ({"path": ["/"], "visitor_id": "v1"}, "visitor_id"),
    ],
)
def test_a_request_that_does_not_fit_is_told_where(asked: dict[str, Any], named: str) -> None:
    answer = client(model()).post(NEXT, json=asked)
    assert answer.status_code == 400, answer.text
    assert [error["field"] for error in answer.json()["errors"]] == [named]


@pytest.mark.parametrize("asked", [{"limit": 0}, {"limit": 501}, {"cursor": -1}, {"pages": "/"}])
def test_a_list_that_does_not_fit_is_told_where(asked: dict[str, Any]) -> None:
    for path in (GRAPH, CLUSTERS, POLICY):
        answer = client(model()).get(path, params=asked)
        assert answer.status_code == 400, answer.text
        assert [error["field"] for error in answer.json()["errors"]] == [*asked]


@pytest.mark.parametrize(
    ("method", "path", "scope"),
    [
        ("POST", NEXT, "recommend"),
        ("GET", NEXT, "read"),
        ("GET", GRAPH, "read"),
        ("GET", CLUSTERS, "read"),
        ("GET", POLICY, "read"),
        ("POST", POLICY, "manage"),
    ],
)
def test_the_next_page_needs_the_scope_recommend_and_the_rest_is_read(method: str, path: str, scope: str) -> None:
    assert needed_scope(method, path) == scope


@given(path=st.lists(st.sampled_from([*PAGES, "/new", "(other)"]), min_size=1, max_size=5), n=st.integers(1, 7))
def test_each_page_once_best_first_and_probabilities_are_some(path: list[str], n: int) -> None:
    told = PageAnswers(lambda: Worker(model()).pages._standing()).next(NextRequest(path=tuple(path), n=n))
    pages, chances = [one.page for one in told.next], [one.probability for one in told.next]
    assert len({*pages}) == len(pages) <= n
    assert chances == sorted(chances, reverse=True)
    assert 0 < sum(chances) <= 1 + 1e-6
    assert (told.current == path[-1]) == (path[-1] in PAGES) == (told.fallback != "unknown_page")
    assert told.recommended is None or (told.recommended.gain > 0 and told.recommended.page in PAGES)


def test_sessions_of_one_page_each_make_a_model_whose_report_is_json() -> None:
    numbers = np.arange(2_000)
    begun = numbers * 9_000_000
    paths = paths_of(("/", "/b"), numbers % 2, numbers, numbers, begun, begun, np.zeros(2_000))
    alone = fit_pages(paths, PageChoices(), 7)
    report = quality(alone, paths, paths.since(9_000.0), 7)
    assert json.loads(json.dumps(report, allow_nan=False))["clusters"]["modularity"] is None
    assert "<svg" in network_page("banner_bundle:1", alone)
    answer = client(alone).post(NEXT, json={"path": ["/"]}).json()
    assert (answer["fallback"], len(answer["next"])) == ("nothing_to_recommend", 2)


def test_the_drawn_network_is_whole_and_needs_nothing_else(tmp_path: Any) -> None:
    text = network_page("banner_bundle:1", model())
    assert "<script" not in text
    assert "://" not in text
    drawing = ET.fromstring(re.search("<svg.*</svg>", text, re.DOTALL)[0])  # type: ignore[index]
    circles, links = list(drawing.iter("circle")), [one.get("href") for one in drawing.iter("a")]
    assert len(circles) == len(PAGES)
    assert {f'id="{link[1:]}"' for link in links if link} <= {*re.findall(r'id="p\d+"', text)}
    advised = [state for state in model().policy() if state.action]
    assert len([line for line in drawing.iter("path") if line.get("class") == "advice"]) == len(advised) > 0
    assert text.count("<tr id=") == len(PAGES)
    assert "<cook>" not in text
    assert html.escape("/jobs/<cook>") in text
    gain = next(state.action.gain for state in advised if state.page == "/" and state.action)
    assert f"<td>{gain:+.2f}" in text
    written = write_network(Settings(home=tmp_path), "banner_bundle:1", model())
    assert (written.name, written.read_text(encoding="utf-8")) == ("banner_bundle-1-pages.html", text)
    assert [file.name for file in written.parent.iterdir()] == [written.name]
