"""What the gates saw, as one page that reads offline: Great Expectations' own index fetches its tables' scripts."""

from __future__ import annotations

import html
import json
from collections import Counter
from pathlib import Path
from typing import Any, Final

SHOWN: Final = 200
"""Validations on the page, newest first; all results stay on disk."""
VERDICTS: Final = ("refused", "warning", "unjudged", "passed")
"""Worst first; a validation that is partly unjudged has passed."""
PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Gates</title>
<style>body{{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}}
table{{border-collapse:collapse;width:100%}}td,th{{text-align:left;padding:.2rem .6rem;border-bottom:1px solid #ddd;
vertical-align:top}}.passed{{color:#1a7f37}}.unjudged{{color:#666}}.warning{{color:#9a6700}}.refused{{color:#c02020;font-weight:600}}
summary{{cursor:pointer;padding:.3rem 0}}</style>
<h1>What the gates saw</h1><p>{count} validations, newest first. Unjudged is what had nothing to be judged by: an empty
column, or drift where there is no history yet.
The same by Great Expectations: <a href="data_docs/index.html">data docs</a> (its index needs a network).</p>
{validations}</html>
"""


def write_gate_page(reports: Path) -> Path:
    """Write ``reports/gates.html`` from the kept validation results."""
    paths = sorted((reports / "validations").rglob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    shown = [_shown(path, reports / "validations") for path in paths[:SHOWN]]
    page = reports / "gates.html"
    page.write_text(PAGE.format(count=len(paths), validations="\n".join(shown)), encoding="utf-8")
    return page


def was_judged(seen: dict[str, Any] | None) -> bool:
    """Whether an expectation met any value; of none, everything holds."""
    count = (seen or {}).get("element_count")
    return count is None or (seen or {}).get("missing_count", 0) < count


def _shown(path: Path, folder: Path) -> str:
    try:
        return _validation(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError):
        name = html.escape(path.relative_to(folder).as_posix())
        return f'<p class="unjudged">{name} cannot be read: a run was killed while it wrote this result</p>'


def _validation(result: dict[str, Any]) -> str:
    rows = sorted((_row(entry) for entry in result["results"]), key=lambda row: VERDICTS.index(row[0]))
    counts = Counter(verdict for verdict, _ in rows)
    verdict = rows[0][0] if rows and rows[0][0] in ("refused", "warning") else "passed"
    run = html.escape(result["meta"]["run_id"]["run_name"])
    suite = html.escape(result["suite_name"])
    found = ", ".join(f"{counts[name]} {name}" for name in VERDICTS if counts[name])
    return (
        f'<details{"" if verdict == "passed" else " open"}><summary><span class="{verdict}">{verdict}</span> '
        f"{run} · {suite} · {len(rows)} expectations: {found}</summary>"
        f"<table><tr><th>verdict<th>expectation<th>observed</tr>{''.join(text for _, text in rows)}</table></details>"
    )


def _row(entry: dict[str, Any]) -> tuple[str, str]:
    config, seen = entry["expectation_config"], entry["result"] or {}
    failed = "warning" if config.get("severity") == "warning" else "refused"
    judged = "passed" if was_judged(seen) else "unjudged"
    verdict = judged if entry["success"] else failed
    cells = f"<td>{html.escape(_expected(config)[:300])}<td>{html.escape(_observed(seen, verdict)[:200])}"
    return verdict, f'<tr><td class="{verdict}">{verdict}{cells}</tr>'


def _expected(config: dict[str, Any]) -> str:
    kwargs = {key: value for key, value in config["kwargs"].items() if key not in ("batch_id", "column")}
    column = config["kwargs"].get("column", "table")
    about = (config.get("meta") or {}).get("about")
    if about:
        bounds = {key: kwargs.get(key) for key in ("min_value", "max_value") if kwargs.get(key) is not None}
        return f"{column} ({about}): " + ", ".join(f"{key} {value:g}" for key, value in bounds.items())
    limits = ", ".join(f"{key} {value}" for key, value in kwargs.items())
    return f"{column}: {config['type'].removeprefix('expect_')} {limits}"


def _observed(seen: dict[str, Any], verdict: str) -> str:
    if "observed_value" in seen:
        return str(seen["observed_value"])
    if verdict == "unjudged":
        return "nothing to judge by"
    examples = ", ".join(_short(item) for item in seen.get("partial_unexpected_list", [])[:3])
    broken = f"{seen.get('unexpected_count', 0)} of {seen.get('element_count', 0)} rows break it"
    return f"{broken}: {examples}" if examples else broken


def _short(item: Any) -> str:
    return f"{item:.4g}" if isinstance(item, float) else str(item)
