"""A task on disk, so that every model can be judged in a process of its own on exactly the same questions."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sparse

from training.harness.task import Task, Truth
from training.interactions import Interactions, Queries

ARRAYS, ABOUT = "arrays.npz", "task.json"
EVENTS = ("starts", "items", "times", "weights", "contexts")


def save_task(task: Task, folder: Path) -> None:
    """Write the arrays uncompressed and the rest as JSON; items and their content are written once."""
    folder.mkdir(parents=True, exist_ok=True)
    histories = task.queries.histories
    arrays: dict[str, Any] = {"item_ids": task.train.item_ids, **_matrix("item_features", task.train.item_features)}
    for name, events in (("train", task.train), ("asked", histories)):
        arrays |= {f"{name}.{field}": getattr(events, field) for field in ("user_ids", *EVENTS)}
        arrays |= _matrix(f"{name}.user_features", events.user_features)
    arrays |= {f"queries.{field}": getattr(task.queries, field) for field in ("users", "times", "contexts")}
    arrays |= {"truth.starts": task.truth.starts, "truth.items": task.truth.items}
    np.savez(folder / ARRAYS, **arrays)
    rest = {field.name: getattr(task, field.name) for field in fields(Task) if field.name in PLAIN}
    (folder / ABOUT).write_text(json.dumps(rest), encoding="utf-8")


PLAIN = ("protocol", "exclude_seen", "about")


def load_task(folder: Path) -> Task:
    """Read what ``save_task`` wrote."""
    with np.load(folder / ARRAYS, allow_pickle=False) as file:
        arrays = dict(file)
    features = _read_matrix(arrays, "item_features")

    def events(name: str) -> Interactions:
        own: dict[str, Any] = {field: arrays[f"{name}.{field}"] for field in ("user_ids", *EVENTS)}
        users = _read_matrix(arrays, f"{name}.user_features")
        return Interactions(item_ids=arrays["item_ids"], item_features=features, user_features=users, **own)

    train, asked = events("train"), events("asked")
    queries = Queries(asked, *(arrays[f"queries.{field}"] for field in ("users", "times", "contexts")))
    rest = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    return Task(train=train, queries=queries, truth=Truth(arrays["truth.starts"], arrays["truth.items"]), **rest)


def _matrix(name: str, matrix: Any) -> dict[str, Any]:
    """A CSR matrix as named arrays; nothing for None."""
    if matrix is None:
        return {}
    csr = sparse.csr_matrix(matrix)
    parts = {"data": csr.data, "indices": csr.indices, "indptr": csr.indptr, "shape": np.array(csr.shape)}
    return {f"{name}.{part}": values for part, values in parts.items()}


def _read_matrix(arrays: dict[str, Any], name: str) -> Any:
    if f"{name}.data" not in arrays:
        return None
    data, indices, indptr, shape = (arrays[f"{name}.{part}"] for part in ("data", "indices", "indptr", "shape"))
    return sparse.csr_matrix((data, indices, indptr), shape=tuple(shape))
