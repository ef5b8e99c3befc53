"""Where a task came from, in plain values: enough to make the same task again, and to notice when that is not so."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from marquee.errors import MarqueeError
from training.harness.protocols import Files, read_task
from training.harness.questions import Splitting
from training.harness.reading import Reading, described, fingerprint
from training.harness.task import Task
from training.harness.validation import validation_task

PARTS = ("test", "validation")


@dataclass(frozen=True, slots=True)
class Origin:
    """One task on one data set.

    Attributes:
        protocol: name of the way of splitting.
        files: where the data are.
        reading: how they are read.
        splitting: how they are split.
        part: ``test``, or ``validation`` for the task within its training part.
    """

    protocol: str
    files: Files
    reading: Reading
    splitting: Splitting
    part: str = "test"

    def task(self) -> Task:
        """Read and split.

        Raises:
            MarqueeError: as ``read_task`` and ``validation_task`` say.
        """
        task = read_task(self.protocol, self.files, self.reading, self.splitting)
        return validation_task(task, self.splitting.seed) if self.part == "validation" else task

    def described(self) -> dict[str, Any]:
        """As plain values, with the hash of each file's content."""
        files = {
            field.name: {"path": str(path.resolve()), "sha256": fingerprint([path])}
            for field in fields(Files)
            if (path := getattr(self.files, field.name)) is not None
        }
        options = {"reading": described(self.reading), "splitting": asdict(self.splitting)}
        return {"protocol": self.protocol, "part": self.part, "files": files, **options}


def read_origin(plain: dict[str, Any], data: Path | None = None) -> Origin:
    """The origin that ``described`` wrote, after a look at its files.

    Args:
        plain: what it wrote.
        data: where the data are now, if they moved.

    Raises:
        MarqueeError: a file is gone, or is not the same any more.
    """
    paths = {role: Path(one["path"]) for role, one in plain["files"].items()} | ({"data": data} if data else {})
    for role, path in paths.items():
        if not path.exists():
            raise MarqueeError(f"the run's {role} file {path} is gone; --{role} says where it is now")
        if (now := fingerprint([path])) != (then := plain["files"][role]["sha256"]):
            raise MarqueeError(f"{path} is not the file of that run: sha256 {now[:12]}…, then {then[:12]}…")
    reading, splitting = Reading(**plain["reading"]), Splitting(**plain["splitting"])
    return Origin(plain["protocol"], Files(**paths), reading, splitting, plain["part"])


def name_of(origin: dict[str, Any]) -> str:
    """A short name that the same data, read and split the same way, always have, wherever the files lie."""
    content = {role: one["sha256"] for role, one in origin["files"].items()}
    text = json.dumps(origin | {"files": content}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
