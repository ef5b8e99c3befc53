"""The verb that judges an experiment. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer

from marquee import console
from marquee.errors import MarqueeError, NothingToDo, SettingsError
from marquee.options import Home, Json, command_settings
from marquee.settings import Settings

CANARY = "canary"
"""The experiment, its second arm, and the action that begins it, as the record of promotions has them."""
COVARIATE_DAYS = 28
"""How far back a visitor's clicks before the experiment are counted, for CUPED."""
RESOLUTION = timedelta(microseconds=1)
"""Of timestamps; the last impression counts."""
HEAD = ["arm", "metric", "control", "arm's", "difference", "lift", "CUPED saves"]
IMPRESSIONS = """
    with shown as (
        select * from intermediate.int_impressions_clean
        where arm in (select unnest($arms)) and impressed_at >= $since and impressed_at < $until
    ),

    priors as (
        select visitor_id, count(*) as views, count(case when is_clicked then 1 end) as clicks
        from intermediate.int_impressions_clean
        where impressed_at >= $since - to_days($days) and impressed_at < least($since, coalesce((
            select min(impressed_at) from intermediate.int_impressions_clean where arm in (select unnest($treated))
        ), $since))
        group by visitor_id
    ),

    earned as (
        select impression_id, sum(amount) as amount from intermediate.int_orders_attributed
        where impression_id is not null
        group by impression_id
    )

    select
        shown.arm,
        shown.visitor_id,
        shown.visitor_id || '/' || shown.session_id as session_id,
        shown.impressed_at,
        shown.is_clicked,
        coalesce(earned.amount, 0) as value,
        coalesce(priors.clicks, 0) - coalesce(priors.views, 0)
        * coalesce((select sum(clicks) / sum(views) from priors), 0) as prior
    from shown
    left join earned on shown.impression_id = earned.impression_id
    left join priors on shown.visitor_id = priors.visitor_id
"""
"""``prior``: clicks of the visitor before the start, above what their views should have brought.

Before any arm but the control was first served too: an arm that grew has been at work before the growth.
"""
WINDOW = """
    select max(first_at), min(last_at) from (
        select min(impressed_at) as first_at, max(impressed_at) as last_at
        from intermediate.int_impressions_clean where arm in (select unnest($arms)) group by arm
    )
"""


def experiment(
    name: Annotated[str, typer.Argument(help="Its name, that of its TOML file without the ending; or canary.")],
    control: Annotated[str, typer.Option(help="The arm that the others are compared with.")] = "champion",
    metric: Annotated[
        str, typer.Option(help="What decides: ctr, session_ctr, value_per_view or value_per_session; others guard.")
    ] = "ctr",
    always_valid: Annotated[
        bool,
        typer.Option(
            "--always-valid/--fixed-horizon",
            help="Judge by intervals right at every look, or by narrower ones right once, at an end set before.",
        ),
    ] = True,
    since: Annotated[
        datetime | None, typer.Option(help="Start (UTC); the canary's, or when all arms had begun.")
    ] = None,
    until: Annotated[datetime | None, typer.Option(help="End (UTC); when the first arm ended, if not given.")] = None,
    planned: Annotated[
        int | None, typer.Option(min=1, help="Visitors or periods that were planned; 10,000 or 100 if not given.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the decision; reports/experiments/NAME without.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Compare an experiment's arms and decide for each: ship, hold or roll back, with reasons."""
    settings = command_settings(home, after="transform")
    if not always_valid and until is None:
        raise MarqueeError(
            "--fixed-horizon needs --until, the end that was set before the start; or use --always-valid"
        )
    from training import decision
    from training.experiments import METRICS, Design, analyse

    if metric not in METRICS:
        raise SettingsError(f"--metric {metric!r} is unknown; use one of {', '.join(METRICS)}")
    plan, began = _plan(settings, name)
    shares = {arm.name: arm.share for arm in plan.arms}
    design = Design(plan.arm(control).name, plan.unit, planned)
    with console.progress("experiment", None, settings.quiet):
        analysis = analyse(_shown(settings, plan, control, since or began, until), shares, design, metric)
        decisions = [decision.decide(analysis, arm, metric, always_valid) for arm in analysis.comparisons]
        told = decision.summary_lines(name, analysis, decisions)
        told.insert(-len(decisions), console.table("", HEAD, decision.table_rows(analysis, always_valid)))
        record = decision.decision_record(name, analysis, decisions, metric=metric, always_valid=always_valid)
        folder = out or settings.reports / "experiments" / name
        path = decision.write_decision(folder, record, analysis, told)
    console.show(record | {"written": str(path)}, [*told, f"written to {path}, and beside it as a page"], as_json)


def _plan(settings: Settings, name: str) -> tuple[Any, datetime | None]:
    """The experiment of that name, and since when its shares stand, where that is recorded.

    It is the file that the service runs, else one under home; a canary without one is in the record of promotions.

    Raises:
        SettingsError: there is no such file, or it describes no experiment.
        NothingToDo: no canary was ever begun.
    """
    from marquee.experiment import Arm, Experiment, read_experiment
    from training import registry

    served = settings.experiment
    path = served if served and served.stem == name else settings.home / "experiments" / f"{name}.toml"
    if name != CANARY or path.exists():
        return read_experiment(path), None
    last = next((line for line in reversed(registry.history(settings)) if line.action == CANARY), None)
    if last is None:
        raise NothingToDo("no canary has been begun yet, so there is nothing to judge")
    share = last.share or 0.0
    arms = Arm("champion", 1 - share), Arm(CANARY, share, last.tag)
    return Experiment(CANARY, arms), _utc(datetime.fromisoformat(last.at))


def _shown(settings: Settings, plan: Any, control: str, since: datetime | None, until: datetime | None) -> Any:
    """The experiment's impressions by people, with what they earned, as arrays.

    Raises:
        NothingToDo: an arm has none.
    """
    import numpy as np

    from marquee.warehouse import open_warehouse
    from training.experiment_log import Shown, periods

    arms = [arm.name for arm in plan.arms]
    with open_warehouse(settings) as warehouse:
        first, last = warehouse.execute(WINDOW, {"arms": arms}).fetchone() or (None, None)
        start, end = _utc(since) or first, _utc(until) or last
        if start is None or end is None:
            raise NothingToDo(f"no impression has the arms {', '.join(arms)} yet; serve the experiment first")
        end = end if until else end + RESOLUTION
        treated = [arm for arm in arms if arm != control]
        asked = {"arms": arms, "treated": treated, "since": start, "until": end, "days": COVARIATE_DAYS}
        found = warehouse.execute(IMPRESSIONS, asked).fetchnumpy()
    if missing := sorted(set(arms) - set(found["arm"])):
        raise NothingToDo(f"no impression from {start} to {end} has the arm {missing[0]}; see --since and --until")
    by_visitor = plan.unit == "visitor"
    units = found["visitor_id"] if by_visitor else periods(found["impressed_at"], plan.periods)
    return Shown(
        found["arm"],
        units,
        found["session_id"],
        found["impressed_at"].astype("datetime64[D]"),
        found["is_clicked"].astype(bool),
        found["value"].astype(np.float64),
        found["prior"].astype(np.float64) if by_visitor else None,
    )


def _utc(moment: datetime | None) -> datetime | None:
    return moment.astimezone(UTC).replace(tzinfo=None) if moment and moment.tzinfo else moment
