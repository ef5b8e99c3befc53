"""The errors a person can act on; the command line prints them as one line and exits with 1.

MarqueeError
├── SettingsError    a setting is unknown or malformed
├── SourceError      a source cannot be read as a whole (wrong path, empty, truncated, missing column)
├── GateError        a quality gate refused a batch, a table or a bundle
├── TryAgain         something is busy or down; the same call may succeed later, and Airflow tries it again
│   └── WarehouseBusy    another process writes to the warehouse
├── NothingToDo      an earlier step has not run yet; Airflow tasks skip on it
└── BundleError      a bundle is missing, incomplete or does not fit this version
"""

from __future__ import annotations


class MarqueeError(Exception):
    """Base of every error whose message is meant for the person at the keyboard."""


class SettingsError(MarqueeError):
    """A setting is unknown or malformed."""


class SourceError(MarqueeError):
    """A source cannot be read as a whole; nothing of it was kept."""


class GateError(MarqueeError):
    """A quality gate refused what it was shown."""


class TryAgain(MarqueeError):
    """Something is busy or cannot be reached for now; the same call may succeed later."""


class WarehouseBusy(TryAgain):
    """Another process writes to the warehouse."""


class NothingToDo(MarqueeError):
    """The step before has produced nothing yet."""


class BundleError(MarqueeError):
    """A bundle is missing, incomplete or does not fit."""
