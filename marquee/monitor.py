"""The verb that watches the champion. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

from typing import Annotated

import typer

from marquee import console
from marquee.options import Home, Json, command_settings
from marquee.settings import settings_now


def monitor(
    hours: Annotated[float | None, typer.Option(min=1, help="Length of the window; MARQUEE_MONITOR_HOURS.")] = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Watch the champion's recent traffic: drift, calibration, click rate, propensities, freshness. 1 on an alarm."""
    settings = command_settings(home, after="promote")
    from training.monitor_page import report_lines
    from training.monitoring import report_values, require_calm, watch

    with console.progress("monitor", None, settings.quiet):
        report = watch(settings, settings_now(settings), hours)
    values = report_values(report)
    console.show(values, [*report_lines(values), f"report: {settings.reports / 'monitor.html'}"], as_json)
    require_calm(report)
