"""What the gates saw, as one page that reads offline: Great Expectations' own index fetches its tables' scripts."""

from __future__ import annotations

import html
import json
from pathlib import Path
from typing import Any, Final

SHOWN: Final = 200
"""Validations on the page, newest first; all results stay on disk."""
PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Gates</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #ddd;
vertical-align:top}}.passed{{color:#1a7f37}}.warning{{color:#9a6700}}.refused{{color:#c02020;font-weight:600}}
summary{{cursor:pointer;padding:.3rem 0}}</style>
<h1>What the gates saw</h1><p>{count} validations, newest first.
The same by Great Expectations: <a href="data_docs/index.html">data docs</a> (its index needs a network).</p>
{validations}</html>
"""


def write_gate_page(reports: Path) -> Path:
    """Write ``reports/gates.html`` from the kept validation results."""
    paths = sorted((reports / "validations").rglob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    shown = [_validation(json.loads(path.read_text(encoding="utf-8"))) for path in paths[:SHOWN]]
    page = reports / "gates.html"
    page.write_text(PAGE.format(count=len(paths), validations="\n".join(shown)), encoding="utf-8")
    return page


def _validation(result: dict[str, Any]) -> str:
    rows = [_row(entry) for entry in result["results"]]
    verdicts = {verdict for verdict, _ in rows}
    verdict = next(name for name in ("refused", "warning", "passed") if name in verdicts or name == "passed")
    run = html.escape(result["meta"]["run_id"]["run_name"])
    suite = html.escape(result["suite_name"])
    table = "".join(text for _, text in sorted(rows, key=lambda row: row[0] == "passed"))
    return (
        f'<details{"" if verdict == "passed" else " open"}><summary><span class="{verdict}">{verdict}</span> '
        f"{run} · {suite} · {len(rows)} expectations</summary><table><tr><th>verdict<th>expectation<th>observed</tr>"
        f"{table}</table></details>"
    )


def _row(entry: dict[str, Any]) -> tuple[str, str]:
    config, seen = entry["expectation_config"], entry["result"] or {}
    failed = "warning" if config.get("severity") == "warning" else "refused"
    verdict = "passed" if entry["success"] else failed
    kwargs = {key: value for key, value in config["kwargs"].items() if key not in ("batch_id", "column")}
    limits = ", ".join(f"{key} {value}" for key, value in kwargs.items())
    what = f"{config['kwargs'].get('column', 'table')}: {config['type'].removeprefix('expect_')} {limits}"
    unexpected = f"{seen.get('unexpected_count', 0)} of {seen.get('element_count', 0)} rows break it"
    observed = str(seen["observed_value"]) if "observed_value" in seen else unexpected
    cells = f"<td>{html.escape(what[:300])}<td>{html.escape(observed[:200])}"
    return verdict, f'<tr><td class="{verdict}">{verdict}{cells}</tr>'
