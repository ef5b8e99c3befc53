"""How a step ends under Airflow: skipped when there is nothing to do, failed for good when trying again cannot help."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from marquee.errors import MarqueeError, NothingToDo, WarehouseBusy


@contextmanager
def task_outcome() -> Iterator[None]:
    """Turn our errors into Airflow's: only a busy warehouse, and what we did not foresee, is worth a retry."""
    from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

    try:
        yield
    except WarehouseBusy:
        raise
    except NothingToDo as reason:
        raise AirflowSkipException(str(reason)) from None
    except MarqueeError as error:
        raise AirflowFailException(str(error)) from None
