"""How long a request waits for a store that does not answer, and how long those after it do not even ask."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

REQUEST_SECONDS: Final = 0.2
"""How long a page waits for a server; after it the service answers without what is kept there."""
PAUSE_SECONDS: Final = 5.0


class Pause:
    """After a failure a store is left alone for some seconds: else every request would wait for it in its turn."""

    def __init__(self) -> None:
        self._until = -math.inf
        self._reason = ""

    @contextmanager
    def after(self, *errors: type[Exception]) -> Iterator[None]:
        """Ask the store in the block; one of these errors from it begins a pause.

        Raises:
            TimeoutError: during a pause, before the block begins.
        """
        if time.monotonic() < self._until:
            raise TimeoutError(f"not asked for {PAUSE_SECONDS:.0f} seconds after {self._reason}")
        try:
            yield
        except errors as error:
            self._until, self._reason = time.monotonic() + PAUSE_SECONDS, str(error)
            raise
