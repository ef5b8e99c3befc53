"""Experiments: who gets which arm, and when. Standard library only, for the service and for the analysis alike.

Two ways of assigning there are, and no third. By **visitor**: an arm is a function of the visitor's id alone, so that
every arm runs on every day. By **switchback**: arms take turns in periods, and every UTC day is a block that holds each
arm for its share of the day's periods, in an order drawn by hash (randomised complete blocks, Fisher 1935). Days are
therefore never compared with days: an experiment that gave one algorithm a whole day cannot be written down.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Literal

from marquee.errors import SettingsError

Unit = Literal["visitor", "switchback"]
UNITS: Final = ("visitor", "switchback")
LONGEST_PERIOD_HOURS: Final = 12.0
"""Two periods a day at least, so that no day has one arm only."""
SLACK: Final = 1e-9
"""By how much shares may miss their sum, or a whole number of periods."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True, slots=True)
class Arm:
    """One treatment: the name that impressions carry, its share of the traffic in (0, 1), the bundle that answers.

    Without a ``bundle`` the champion answers.
    """

    name: str
    share: float
    bundle: str | None = None


@dataclass(frozen=True, slots=True)
class Experiment:
    """Arms and how traffic is divided among them.

    Attributes:
        name: also the salt, so that experiments of two names divide the same visitors independently.
        arms: two at least; their shares sum to 1.
        unit: "visitor", for ever the same arm; or "switchback", one arm for everybody for a period.
        period_hours: of a switchback; divides 24 and is at most 12. A day's periods must give each arm its share.
        salt: another one draws anew, for an experiment run a second time under its name.

    Raises:
        SettingsError: one of these does not hold; the message names the experiment and the field.
    """

    name: str
    arms: tuple[Arm, ...]
    unit: Unit = "visitor"
    period_hours: float = 1.0
    salt: str = ""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise SettingsError(f"experiment name {self.name!r}: use letters, digits, '_', '.' and '-', at most 100")
        if self.unit not in UNITS:
            raise self._wrong("unit", f"is {self.unit!r}; use one of {', '.join(UNITS)}")
        self._check_arms()
        if self.unit == "switchback":
            self._check_periods()

    @property
    def periods(self) -> int:
        """Periods a day."""
        return round(24 / self.period_hours)

    def arm(self, name: str) -> Arm:
        """The arm called ``name``.

        Raises:
            SettingsError: there is none.
        """
        found = next((arm for arm in self.arms if arm.name == name), None)
        if found is None:
            raise self._wrong("arms", f"have no {name!r}; name one of {', '.join(arm.name for arm in self.arms)}")
        return found

    def _wrong(self, field: str, told: str) -> SettingsError:
        return SettingsError(f"experiment {self.name}: {field} {told}")

    def _check_arms(self) -> None:
        if len(self.arms) < 2:
            raise self._wrong("arms", f"are {len(self.arms)}; give at least two")
        if any(not arm.name.strip() for arm in self.arms):
            raise self._wrong("arms", "have one without a name; name each")
        name, times = Counter(arm.name for arm in self.arms).most_common(1)[0]
        if times > 1:
            raise self._wrong("arms", f"have {name!r} {times} times; give each a name of its own")
        if wrong := next((arm for arm in self.arms if not 0 < arm.share < 1), None):
            raise self._wrong("share", f"of {wrong.name} is {wrong.share:g}; give one between 0 and 1")
        total = math.fsum(arm.share for arm in self.arms)
        if abs(total - 1) > SLACK:
            raise self._wrong("shares", f"sum to {total:.10g}; make them sum to 1")

    def _check_periods(self) -> None:
        if not 0 < self.period_hours <= LONGEST_PERIOD_HOURS:
            raise self._wrong("period_hours", f"is {self.period_hours:g}; give more than 0 and at most 12")
        if abs(24 / self.period_hours - self.periods) > SLACK * self.periods:
            raise self._wrong("period_hours", f"is {self.period_hours:g}; give one that divides a day of 24 hours")
        for arm in self.arms:
            turns = arm.share * self.periods
            if abs(turns - round(turns)) > SLACK * self.periods or round(turns) < 1:
                told = f"of {arm.name} is {arm.share:g}; make it a whole number of a day's {self.periods} periods"
                raise self._wrong("share", told)


def bucket(unit_id: str, salt: str) -> float:
    """A number in [0, 1) that looks drawn at random and is the same in every process and on every platform.

    The first 53 bits of BLAKE2b (RFC 7693), all that a float holds.
    """
    # Lengths first, so that no two pairs of id and salt are the same bytes.
    told = f"{len(salt)}:{salt}:{unit_id}".encode("utf-8", "surrogatepass")
    return (int.from_bytes(blake2b(told, digest_size=8).digest()) >> 11) / 2**53


def assign(experiment: Experiment, visitor_id: str, at: datetime) -> Arm:
    """The arm that this visitor gets at this moment (UTC where it has no zone).

    By visitor it is a race of exponential clocks, one an arm, each as fast as the arm's share: weighted rendezvous
    hashing (Thaler and Ravishankar 1998; weights by Schindelhauer and Schomaker 2005). The first to ring wins with
    chance its share. A clock that speeds up still wins the races it won, so an arm that grows keeps its visitors
    while no other grows, whatever the order of the arms. Of three arms or more, the others may swap some of theirs.
    """
    if experiment.unit == "switchback":
        moment = at.astimezone(UTC).replace(tzinfo=None) if at.tzinfo else at
        since_midnight = moment - datetime.combine(moment.date(), time())
        return turns(experiment, moment.date())[since_midnight * experiment.periods // timedelta(days=1)]
    return min(experiment.arms, key=lambda arm: _rings_at(experiment, arm, visitor_id))


@lru_cache(maxsize=64)
def turns(experiment: Experiment, day: date) -> tuple[Arm, ...]:
    """The arm of each period of a UTC day of a switchback: every arm exactly by its share, in random order."""
    arms = [arm for arm in experiment.arms for _ in range(round(arm.share * experiment.periods))]
    salt = _salt(experiment, "turns")
    order = sorted(range(len(arms)), key=lambda place: bucket(f"{day.isoformat()}/{place}", salt))
    return tuple(arms[place] for place in order)


def read_experiment(path: Path) -> Experiment:
    """The experiment that a TOML file describes: ``unit``, ``period_hours``, ``salt`` and ``[[arms]]``, named as it is.

    Raises:
        SettingsError: the file is missing, is no TOML, has an unknown key, or describes no experiment.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path}: there is no such experiment; describe its arms there") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    arms = found.pop("arms", [])
    if not isinstance(arms, list) or not all(isinstance(arm, dict) for arm in arms):
        raise SettingsError(f"{path}: arms must be tables; begin each with [[arms]]")
    _check_keys(path, found, {"unit": str, "period_hours": (int, float), "salt": str}, ())
    for arm in arms:
        _check_keys(path, arm, {"name": str, "share": (int, float), "bundle": str}, ("name", "share"))
    return Experiment(path.stem, tuple(Arm(**arm) for arm in arms), **found)


def _check_keys(path: Path, found: dict[str, Any], known: dict[str, Any], required: tuple[str, ...]) -> None:
    for key, value in found.items():
        if key not in known:
            raise SettingsError(f"{path}: unknown key {key!r}; use {', '.join(known)}")
        if not isinstance(value, known[key]) or isinstance(value, bool):
            raise SettingsError(f"{path}: {key} is {value!r}; give {'a text' if known[key] is str else 'a number'}")
    if missing := next((key for key in required if key not in found), None):
        raise SettingsError(f"{path}: an arm has no {missing}; give each a name and a share")


def _rings_at(experiment: Experiment, arm: Arm, visitor_id: str) -> float:
    return -math.log1p(-bucket(visitor_id, _salt(experiment, f"arm/{arm.name}"))) / arm.share


def _salt(experiment: Experiment, purpose: str) -> str:
    # A name has no slash, so that no other experiment makes the same salt.
    return f"{experiment.name}/{experiment.salt}/{purpose}"
