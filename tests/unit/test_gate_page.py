"""The gates' page: every validation is on it, the worst verdict leads, and it fetches nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from expectations.gate_page import was_judged, write_gate_page


def result(name: str, *entries: tuple[bool, str]) -> dict[str, Any]:
    results = [
        {
            "success": success,
            "expectation_config": {
                "type": "expect_column_values_to_be_between",
                "severity": severity,
                "kwargs": {"column": f"c{place}", "batch_id": "b", "max_value": 1},
            },
            "result": {"unexpected_count": 0 if success else 3, "element_count": 9},
        }
        for place, (success, severity) in enumerate(entries)
    ]
    return {"suite_name": "events", "meta": {"run_id": {"run_name": name}}, "results": results}


def test_every_validation_and_expectation_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "validations" / "events"
    folder.mkdir(parents=True)
    runs = {
        "good": ((True, "critical"), (True, "warning")),
        "worrying": ((True, "critical"), (False, "warning")),
        "bad <b>": ((False, "critical"), (False, "warning")),
    }
    for place, (name, entries) in enumerate(runs.items()):
        (folder / f"{place}.json").write_text(json.dumps(result(name, *entries)))
    page = write_gate_page(tmp_path).read_text()
    heads = dict(re.findall(r'<span class="(\w+)">\w+</span> (\S+)', page))
    assert heads == {"passed": "good", "warning": "worrying", "refused": "bad"}
    assert page.count("<tr><td") == 6
    assert page.count("3 of 9 rows break it") == 3
    assert "<b>" not in page
    assert not re.search(r"(src|href)=[\"']?http", page)


def test_what_could_not_be_judged_is_not_shown_as_passed(tmp_path: Path) -> None:
    folder = tmp_path / "validations" / "batch_drift"
    folder.mkdir(parents=True)
    found = result("first", (True, "critical"), (True, "warning"))
    found["results"][0]["result"] |= {"element_count": 1, "missing_count": 1}
    found["results"][0]["expectation_config"]["meta"] = {"about": "a change"}
    found["results"][1]["result"] |= {"missing_count": 8}
    (folder / "0.json").write_text(json.dumps(found))
    page = write_gate_page(tmp_path).read_text()
    assert "2 expectations: 1 unjudged, 1 passed" in page
    assert '<td class="unjudged">unjudged<td>c0 (a change): max_value 1<td>nothing to judge by' in page
    assert [was_judged(one) for one in ({}, {"element_count": 0}, {"element_count": 2, "missing_count": 1})] == [
        True,
        False,
        True,
    ]


def test_a_result_that_cannot_be_read_is_shown_as_such(tmp_path: Path) -> None:
    folder = tmp_path / "validations" / "events"
    folder.mkdir(parents=True)
    (folder / "0.json").write_text(json.dumps(result("good", (True, "critical"))))
    for place, text in enumerate(["", '{"results": [', "{}", "null", '{"results": [1]}'], start=1):
        (folder / f"{place}.json").write_text(text)
    page = write_gate_page(tmp_path).read_text()
    assert page.count("cannot be read") == 5
    assert "events/3.json" in page
    assert '<span class="passed">passed</span> good' in page
