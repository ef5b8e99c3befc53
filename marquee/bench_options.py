"""Options of the model bench's verbs, and the task and jobs that they describe. Part of the composition root."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from marquee.errors import SettingsError

Option = typer.Option
Data = Annotated[Path | None, Option("--data", help="Events (CSV, Parquet, gzip), or what to learn from.")]
Test = Annotated[Path | None, Option("--test", help="What to ask: session and target pairs, sessions, or test lists.")]
Histories = Annotated[Path | None, Option("--histories", help="given-split: what the test's users did before.")]
Items = Annotated[
    Path | None, Option("--items", help="A table of what the items are, a row each; makes cold ones known.")
]
Users = Annotated[Path | None, Option("--users", help="A table of what else is known of users, a row each.")]
Protocol = Annotated[str | None, Option("--protocol", help="sessions, leave-one-out, temporal or given-split.")]
Models = Annotated[str, Option("--models", help="Names parted by commas, or all; `marquee models` lists them.")]
Changes = Annotated[list[str] | None, Option("--set", help="model.setting=value; may be given again.")]
File = Annotated[Path | None, Option("--settings", help="TOML with a table a model, as tune-models writes it.")]
Metric = Annotated[str | None, Option("--metric", help="What decides; ndcg at the first --k unless told otherwise.")]
Seed = Annotated[int | None, Option("--seed", min=0, help="Of fits, of all that is drawn, of intervals.")]
Epochs = Annotated[int | None, Option("--epochs", min=1, help="For all models that have a setting epochs.")]
Columns = Annotated[str, Option("--columns", help="user=…,item=…,time=…,weight=…,context=… where not by usual names.")]
Format = Annotated[str, Option("--format", help="table, sessions, lists, or auto: told from the first lines.")]
MinUser = Annotated[int, Option("--min-user-events", min=1, help="Leave out users with fewer events.")]
MinItem = Annotated[int, Option("--min-item-events", min=1, help="Leave out items with fewer events.")]
MinWeight = Annotated[float, Option("--min-weight", help="Leave out events with a lower weight or rating.")]
FirstOnly = Annotated[bool, Option("--first-only", help="Keep each user's first event with an item.")]
Since = Annotated[str, Option("--since", help="Leave out events before this moment.")]
Until = Annotated[str, Option("--until", help="Leave out events from this moment on.")]
TestDays = Annotated[float, Option("--test-days", min=0, help="The last so many days are the test.")]
TestShare = Annotated[float, Option("--test-share", help="Else: share of the newest sessions or events.")]
Gap = Annotated[float | None, Option("--session-gap", min=0, help="Minutes without event that end a session; 0 never.")]
Repeats = Annotated[bool, Option("--repeats", help="Ask for items of the history too, not only for new ones.")]
MostQueries = Annotated[int, Option("--most-queries", min=0, help="At most so many questions, drawn at random; 0 all.")]


def read_origin(given: dict[str, Any]) -> Any:
    """The task that the options describe."""
    if given["data"] is None:
        raise SettingsError("give --data FILE, a table of who took what and when")
    if given["protocol"] is None:
        raise SettingsError(
            "give --protocol: sessions, leave-one-out, temporal or given-split; docs/models.md says which"
        )
    from training.harness.origin import Origin
    from training.harness.protocols import Files
    from training.harness.questions import Splitting
    from training.harness.reading import Reading

    same = ("format", "min_user_events", "min_item_events", "min_weight", "first_only", "since", "until")
    options: dict[str, Any] = {**_columns(given["columns"]), **{name: given[name] for name in same}}
    splitting = Splitting(
        test_days=given["test_days"],
        test_share=given["test_share"],
        gap_minutes=given["session_gap"],
        exclude_seen=not given["repeats"],
        most_queries=given["most_queries"],
        seed=given["seed"],
    )
    files = Files(given["data"], given["test"], given["histories"], given["items"], given["users"])
    return Origin(given["protocol"], files, Reading(**options), splitting)


def _columns(text: str) -> dict[str, str]:
    """Columns named as ``user=who,item=what``."""
    known = ("user", "item", "time", "weight", "context")
    found = {}
    for part in filter(None, text.split(",")):
        role, equals, column = part.strip().partition("=")
        if not equals or role not in known or not column:
            raise SettingsError(f"--columns {part}: write role=column, with roles {', '.join(known)}")
        found[role] = column
    return found


def read_interactions(data: Path, columns: str, format: str) -> Any:
    """Who took what and when, from one file or folder; nothing is split or left out."""
    from training.harness.reading import Reading, read_events

    options: dict[str, Any] = {"format": format, **_columns(columns)}
    return read_events(data, Reading(**options), "temporal").interactions


def read_jobs(given: dict[str, Any]) -> list[Any]:
    """What to do with each model that the options name."""
    from training.harness.comparison import depth
    from training.harness.model_list import chosen_models, parse_settings, read_settings, with_common
    from training.harness.trial import Job

    names = chosen_models(given["models"])
    chosen = read_settings(given["settings_file"]) if given["settings_file"] else {}
    for model, values in parse_settings(given["changes"] or []).items():
        if model not in names:
            raise SettingsError(f"--set names {model}, which is not among --models {','.join(names)}")
        chosen[model] = chosen.get(model, {}) | values
    chosen = with_common(names, chosen, seed=given["seed"], epochs=given["epochs"])
    ks = tuple(sorted({int(k) for k in _numbers(given["k"], "--k", 1, 10_000)}))
    metric = given["metric"] or f"ndcg@{ks[0]}"
    ks = tuple(sorted({*ks, depth(metric)}))
    shares = tuple(_numbers(given.get("robustness", ""), "--robustness", 0, 1))
    extra = {name: given[name] for name in ("patience", "refit", "scaling") if name in given}
    return [Job(name, chosen[name], metric, ks, given["seed"], robustness=shares, **extra) for name in names]


def _numbers(text: str, option: str, least: float, most: float) -> list[float]:
    try:
        found = [float(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [float("nan")]
    if not all(least <= one <= most for one in found):
        raise SettingsError(f"{option} {text}: write numbers from {least:g} to {most:g}, parted by commas")
    return found
