"""Local time beside the standard library's, and quiet hours over midnight and over changes of the clock."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marquee.errors import SettingsError
from training.notifications.local_time import clock, clock_around, hour_of_day, seconds
from training.notifications.quiet_hours import QuietHours
from training.notifications.zones import _zones, zone_of

ZONES = (
    *("Europe/Paris", "America/New_York", "America/St_Johns", "Australia/Lord_Howe", "Asia/Kathmandu"),
    *("Africa/Casablanca", "Pacific/Auckland", "America/Santiago", "UTC", "Asia/Kolkata", "Pacific/Apia"),
)
FIRST, LAST = datetime(2024, 1, 1), datetime(2027, 12, 31)
zones = st.sampled_from(ZONES)
moments = st.datetimes(FIRST, LAST).map(lambda at: at.replace(microsecond=0))
times = st.times().map(lambda at: at.replace(microsecond=0))
# Most clocks change around one to three at night: hours that hold those moments are where mistakes would be.
night = st.integers(0, 4 * 60).map(lambda minute: time(minute // 60 % 24, minute % 60))


def told(zone: str, at: datetime) -> datetime:
    """What the standard library says that the clock shows."""
    return at.replace(tzinfo=UTC).astimezone(ZoneInfo(zone)).replace(tzinfo=None)


def is_quiet(quiet: QuietHours, shown: time) -> bool:
    if quiet.start <= quiet.end:
        return quiet.start <= shown < quiet.end
    return shown >= quiet.start or shown < quiet.end


@given(zones, st.lists(moments, min_size=1, max_size=20))
def test_local_time_is_the_standard_librarys(zone: str, at: list[datetime]) -> None:
    found = clock(zone, 2023, 2028).local(np.array(at, dtype="datetime64[s]"))
    assert found.tolist() == [told(zone, one) for one in at]


def test_a_clock_knows_the_second_of_each_change() -> None:
    paris = clock("Europe/Paris", 2026, 2026)
    changes = [datetime.fromtimestamp(at, UTC).replace(tzinfo=None) for at in paris.changes[1:].tolist()]
    assert changes == [datetime(2026, 3, 29, 1), datetime(2026, 10, 25, 1)]
    assert paris.offsets.tolist() == [3600, 7200, 3600]
    assert clock("UTC", 2020, 2030).next_change(np.datetime64("2026-01-01")) == np.datetime64("9999-01-01")


@pytest.mark.parametrize("name", ["Europe/Atlantis", "", "../etc/passwd"])
def test_an_unknown_zone_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match="is no time zone; write an IANA name"):
        clock(name, 2026, 2026)


def at_clock(zone: str, quiet: QuietHours, at: datetime) -> datetime:
    found = quiet.next_allowed(clock_around(zone, at), np.array([np.datetime64(at, "s")]))
    moment: datetime = found.tolist()[0]
    return moment


def test_by_hand_over_midnight() -> None:
    quiet = QuietHours(time(21), time(9))
    # 23:30 in Paris on a winter's day is 22:30 UTC; nine in the morning there is eight.
    assert at_clock("Europe/Paris", quiet, datetime(2026, 1, 10, 22, 30)) == datetime(2026, 1, 11, 8)
    assert at_clock("Europe/Paris", quiet, datetime(2026, 1, 10, 8)) == datetime(2026, 1, 10, 8)
    assert at_clock("Europe/Paris", quiet, datetime(2026, 1, 10, 20)) == datetime(2026, 1, 11, 8)
    # The night in which clocks go forward is an hour shorter, and the one in which they go back an hour longer.
    assert at_clock("Europe/Paris", quiet, datetime(2026, 3, 28, 22)) == datetime(2026, 3, 29, 7)
    assert at_clock("Europe/Paris", quiet, datetime(2026, 10, 24, 22)) == datetime(2026, 10, 25, 8)


def test_an_end_that_the_clock_skips_is_reached_with_the_skip() -> None:
    # In Paris 02:30 of 29 March 2026 never is: at 01:00 UTC the clock goes from 02:00 to 03:00.
    assert at_clock("Europe/Paris", QuietHours(time(23), time(2, 30)), datetime(2026, 3, 29)) == datetime(
        2026, 3, 29, 1
    )
    # And quiet hours that lie within the hour that is skipped do not happen that night.
    within = QuietHours(time(2, 10), time(2, 50))
    assert at_clock("Europe/Paris", within, datetime(2026, 3, 29, 0, 59)) == datetime(2026, 3, 29, 0, 59)
    assert not within.is_quiet(clock("Europe/Paris", 2026, 2026), np.datetime64("2026-03-29T01:00:00"))


def test_an_hour_that_comes_twice_is_quiet_twice() -> None:
    # In Paris on 25 October 2026 the clock goes from 03:00 back to 02:00 at 01:00 UTC.
    quiet, paris = QuietHours(time(2), time(2, 30)), clock("Europe/Paris", 2026, 2026)
    asked = np.array(["2026-10-25T00:10", "2026-10-25T00:40", "2026-10-25T01:10", "2026-10-25T01:40"], "datetime64[s]")
    assert quiet.is_quiet(paris, asked).tolist() == [True, False, True, False]
    assert at_clock("Europe/Paris", quiet, datetime(2026, 10, 25, 1, 10)) == datetime(2026, 10, 25, 1, 30)
    assert quiet.next_quiet(paris, asked[1:2]).tolist() == [datetime(2026, 10, 25, 1)]


@settings(max_examples=150)
@given(zones, moments, st.one_of(times, night), st.one_of(times, night), st.booleans())
def test_the_next_moment_is_the_first_one(zone: str, at: datetime, start: time, end: time, near: bool) -> None:
    """Never quiet, never earlier, and no minute before it is allowed; the same of the next quiet moment."""
    quiet, here = QuietHours(start, end), clock(zone, 2023, 2029)
    if near and len(here.changes) > 2:  # a night in which the clock changes
        change = datetime.fromtimestamp(int(here.changes[1 + at.day % (len(here.changes) - 1)]), UTC)
        at = change.replace(tzinfo=None) + timedelta(minutes=at.minute * 6 - 180)
    for wanted, search in ((False, quiet.next_allowed), (True, quiet.next_quiet)):
        found = search(here, np.array([np.datetime64(at, "s")])).tolist()[0]
        if wanted and start == end:
            assert found == datetime(9999, 1, 1)
            continue
        assert found >= at
        assert is_quiet(quiet, told(zone, found).time()) is wanted
        step = timedelta(seconds=max(1, int((found - at).total_seconds() // 400)))
        passed = at
        while passed < found:
            assert is_quiet(quiet, told(zone, passed).time()) is not wanted
            passed += step
        if found > at:
            assert is_quiet(quiet, told(zone, found - timedelta(seconds=1)).time()) is not wanted


@given(moments, times)
def test_without_quiet_hours_all_is_allowed(at: datetime, hour: time) -> None:
    assert at_clock("Europe/Paris", QuietHours(hour, hour), at) == at


@pytest.mark.parametrize(
    ("country", "zone"),
    [
        ("FR", "Europe/Paris"),
        ("fr", "Europe/Paris"),
        ("United Kingdom", "Europe/London"),
        ("Japan", "Asia/Tokyo"),
        ("United States", "America/New_York"),
        ("AU", "Australia/Sydney"),
        ("(not set)", "Asia/Tbilisi"),
        (None, "Asia/Tbilisi"),
        ("XX", "Asia/Tbilisi"),
    ],
)
def test_a_country_has_a_zone(country: str | None, zone: str) -> None:
    assert zone_of(country, "Asia/Tbilisi") == zone


def test_all_zones_of_countries_are_known() -> None:
    assert len(_zones()) > 240
    assert all(len(clock(name, 2026, 2026).offsets) for name in _zones().values())


def test_hours_count_from_midnight() -> None:
    assert hour_of_day(np.array(["1969-12-31T23:59:59", "2026-01-01T00:00:00"], "datetime64[s]")).tolist() == [23, 0]
    assert seconds(np.datetime64("1970-01-02")) == 86_400
