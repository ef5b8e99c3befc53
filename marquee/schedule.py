"""What DAGs share: the assets between them, the days a run is asked for, and how a step ends.

Skipped when there is nothing to do, failed for good when trying again cannot help.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from typing import Final

from marquee.errors import MarqueeError, NothingToDo, TryAgain

# What one DAG announces and the next waits for.
RAW_EVENTS_ASSET: Final = "marquee_raw_events"
TRAINING_ROWS_ASSET: Final = "marquee_training_rows"
BUNDLE_ASSET: Final = "marquee_bundle"


@contextmanager
def task_outcome() -> Iterator[None]:
    """Turn our errors into Airflow's: only what is busy or down, and what we did not foresee, is worth a retry."""
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    try:
        yield
    except TryAgain:
        raise
    except NothingToDo as reason:
        raise AirflowSkipException(str(reason)) from None
    except MarqueeError as error:
        raise AirflowFailException(str(error)) from None


def given_days(first: str | None, last: str | None) -> tuple[date | None, date | None]:
    """The days a person asked a run for; none where they left it open.

    Raises:
        MarqueeError: one is no day, or the last comes before the first.
    """
    days = []
    for name, text in (("from_date", first), ("to_date", last)):
        try:
            days.append(date.fromisoformat(text) if text else None)
        except ValueError:
            raise MarqueeError(f"{name} is {text!r}, which is no day; write it as YYYY-MM-DD") from None
    from_date, to_date = days
    if from_date and to_date and to_date < from_date:
        raise MarqueeError(f"from_date {from_date} is later than to_date {to_date}")
    return from_date, to_date
