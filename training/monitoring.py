"""Watching the champion: readings over its recent traffic, a report, an alert, and the rollback that they may set off.

Drift is read from the last hours. Clicks come later than impressions, so what depends on them is read from as many
hours, ended where the attribution time of all has passed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from marquee.errors import BundleError, GateError, NothingToDo
from marquee.settings import Settings
from training import registry
from training.alerts import AlertError, Send, post_alert
from training.monitor_page import write_pages
from training.readings import Reading, drift_readings, outcome_readings, propensity_readings
from training.staleness import freshness_readings
from training.window import read_window

SETS_OFF_ROLLBACK: Final = ("click rate", "click rate before", "calibration")
BY: Final = "monitor"
"""Who rolls back, for the record."""


@dataclass(frozen=True, slots=True)
class MonitorReport:
    """What was found of one bundle, at a moment (UTC), over so many hours, and what came of it.

    Attributes:
        impressions: of the window from which drift is read.
        judged: of the window whose clicks are final.
        rollback: what was done, or why nothing; empty when nothing set it off.
        alert: what became of it; empty when there was none to send.
    """

    bundle: str
    at: str
    hours: float
    impressions: int
    judged: int
    unread: int
    readings: list[Reading]
    rollback: str = ""
    alert: str = ""
    is_alert_lost: bool = False

    @property
    def alarms(self) -> list[Reading]:
        """The readings that are alarms."""
        return [reading for reading in self.readings if reading.verdict == "alarm"]


def monitor(settings: Settings, now: datetime, hours: float | None = None) -> MonitorReport:
    """Read the champion's recent traffic; changes nothing.

    Args:
        settings: whose champion; ``monitor_hours`` is the window unless ``hours`` is given.
        now: end of the window, UTC without a zone.
        hours: length of the window.

    Raises:
        NothingToDo: no bundle has been promoted, or there is no warehouse.
        BundleError: the champion cannot be read, or holds no reference statistics.
    """
    tag = registry.champion(settings)
    if tag is None:
        raise NothingToDo("no bundle has been promoted yet, so none is monitored: run `marquee promote`")
    bundle = registry.load_bundle(settings, tag)
    reference = bundle.report.get("reference")
    if not reference or not reference["requests"]:
        raise BundleError(f"bundle {tag}: its report has no reference statistics; train again and promote")
    length = settings.monitor_hours if hours is None else hours
    span, final = timedelta(hours=length), now - timedelta(days=settings.attribution_days)
    recent = read_window(settings, tag, now - span, now)
    judged = read_window(settings, tag, final - span, final)
    other, until = _before(settings, tag, final)
    before = read_window(settings, other, until - span, until)
    readings = [
        *drift_readings(reference, bundle, recent, length),
        *outcome_readings(reference, bundle, judged, before, settings.seed),
        *propensity_readings(bundle, recent),
        *freshness_readings(settings, now),
    ]
    at = now.isoformat(timespec="seconds")
    return MonitorReport(tag, at, length, len(recent), len(judged), recent.unread, readings)


def watch(settings: Settings, now: datetime, hours: float | None = None, send: Send = post_alert) -> MonitorReport:
    """Monitor, write the report, then do what alarms ask for: roll back if that is on, and send an alert.

    The report is on disk before anything else is tried, and written again with what came of it. An alert that nobody
    took does not raise: the report says so.
    """
    report = monitor(settings, now, hours)
    reference = registry.load_bundle(settings, report.bundle).report["reference"]
    write_pages(settings, report_values(report), reference)
    if not report.alarms:
        return report
    report = replace(report, rollback=_rollback(settings, report, now))
    if settings.alert_webhook is not None:
        try:
            send(settings.alert_webhook, alert_of(report))
            report = replace(report, alert="delivered")
        except AlertError as error:
            report = replace(report, alert=f"alert not delivered: {error}", is_alert_lost=True)
    write_pages(settings, report_values(report), reference)
    return report


def require_calm(report: MonitorReport) -> None:
    """Ask that nothing alarmed.

    Raises:
        GateError: something did; the message names it, and the alert that was lost.
    """
    if report.alarms:
        names = ", ".join(reading.name for reading in report.alarms)
        told = "; ".join(text for text in (names, report.rollback, report.alert) if text)
        raise GateError(f"{report.bundle}: {len(report.alarms)} alarms: {told}")


def report_values(report: MonitorReport) -> dict[str, Any]:
    """The report, JSON-ready."""
    return asdict(report)


def alert_of(report: MonitorReport) -> dict[str, Any]:
    """What the webhook gets; ``text`` is what chat systems show."""
    names = ", ".join(reading.name for reading in report.alarms)
    text = f"{report.bundle}: {len(report.alarms)} alarms over {report.hours:g} hours: {names}"
    return {
        "text": f"{text}. {report.rollback}" if report.rollback else text,
        "bundle": report.bundle,
        "at": report.at,
        "hours": report.hours,
        "alarms": [asdict(reading) for reading in report.alarms],
        "rollback": report.rollback,
    }


def _before(settings: Settings, tag: str, final: datetime) -> tuple[str, datetime]:
    """The champion before this one and when it ended, or ``final`` where that is earlier; no bundle has the tag ''."""
    reigns = _reigns(registry.history(settings))
    # The clock of the record is the real one; a replay at another moment looks back from that moment.
    began = min(datetime.fromisoformat(reigns[-1].at), final)
    other = next((line.tag for line in reversed(reigns) if line.tag != tag), "")
    return other, began


def _reigns(lines: list[registry.Promotion]) -> list[registry.Promotion]:
    """The lines that put a champion in force."""
    return [line for line in lines if line.action in ("promoted", "rolled back")]


def _rollback(settings: Settings, report: MonitorReport, now: datetime) -> str:
    """Roll back once for each champion, and never twice in a row: then it is not the champion that is wrong."""
    causes = [reading.name for reading in report.alarms if reading.name in SETS_OFF_ROLLBACK]
    if not causes or not settings.auto_rollback:
        return ""
    lines = registry.history(settings)
    own = [line for line in lines if line.by == BY and line.action == "rolled back"]
    if any(line.reason.startswith(f"{report.bundle}:") for line in own):
        return "not rolled back: it was once before, and somebody promoted it again"
    if _reigns(lines)[-1] in own:
        return "not rolled back: the champion before it was rolled back for an alarm too, so a person must look"
    if registry.champion(settings) != report.bundle:
        return "not rolled back: another bundle was promoted meanwhile"
    try:
        back = registry.roll_back(settings, BY, f"{report.bundle}: {', '.join(causes)}", now)
    except BundleError as error:
        return f"not rolled back: {error}"
    return f"rolled back to {back}"
