"""Great Expectations, imported without Spark."""

from __future__ import annotations

import sys
from typing import Any

SPARK = "pyspark.sql.connect"


def great_expectations() -> Any:
    """The library as a module; its first import takes seconds.

    Where Spark is installed the library imports it, and Spark's Connect then ends a process that has no main file
    (``python -c``, a worker of a test run) in silence, taking it for its own test run. Nothing here needs Spark.
    """
    if "great_expectations" in sys.modules or SPARK in sys.modules:
        import great_expectations as library

        return library
    sys.modules[SPARK] = None  # type: ignore[assignment]
    try:
        import great_expectations as library
    finally:
        del sys.modules[SPARK]
    return library
