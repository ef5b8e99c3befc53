"""What every retrieval model can do, and how one is found by its name."""

from __future__ import annotations

import dataclasses
import importlib
import json
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

import training.models
from marquee.errors import MarqueeError
from training.interactions import Floats, Interactions, Ints, Queries
from training.top_k import top_k

CELLS = 16_000_000
"""Scores held at once while recommending: 64 MB."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """One pass over the data: its number from 1, how many there will be, and the mean loss."""

    number: int
    of: int
    loss: float


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a caller may want from a long fit; models without epochs need none of it.

    Attributes:
        on_epoch: told after each epoch.
        checkpoint: folder where the state after each epoch is kept; a fit that finds one there goes on from it.
        validate: quality of a model on held-out data, higher is better; a model that has it keeps the best epoch's
            weights and stops when ``patience`` epochs brought nothing.
        patience: epochs.
    """

    on_epoch: Callable[[Epoch], None] | None = None
    checkpoint: Path | None = None
    validate: Callable[[Recommender], float] | None = None
    patience: int = 2


PLAIN = Fitting()


class Recommender(ABC):
    """A model that says which items come next for a history.

    To add one: write ``training/models/<name>.py`` with a subclass whose settings are a frozen dataclass, and a line
    ``MODEL = <the class>``. Nothing else lists models. ``recommend``, ``score_candidates``, ``save`` and ``load`` come
    with it; write ``fit``, ``score``, ``state`` and ``restore``.

    New visitors and new events need no fitting: what is asked is a history, not a number of a user.
    """

    Settings: ClassVar[type[Any]]
    about: ClassVar[str]
    """One line for the list of models."""
    scores_new_items: ClassVar[bool] = False
    """Whether items without any event in training get a score from their content."""

    def __init__(self, **settings: Any) -> None:
        known = {field.name for field in dataclasses.fields(self.Settings)}
        if unknown := sorted(set(settings) - known):
            raise MarqueeError(f"{self.name()} has no setting {unknown[0]!r}; it has {', '.join(sorted(known))}")
        self.settings = self.Settings(**settings)
        self.item_ids: NDArray[np.str_] = np.array([], dtype=np.str_)

    @classmethod
    def name(cls) -> str:
        """The model's name: that of its file."""
        return cls.__module__.rpartition(".")[2]

    @classmethod
    def space(cls, trial: Any) -> dict[str, Any]:
        """Settings to try next, drawn with Optuna's ``trial.suggest_…``; none where nothing is to be tuned."""
        return {}

    @abstractmethod
    def fit(self, train: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Learn from the interactions; sets ``item_ids`` and returns itself."""

    def update(self, new: Interactions, fitting: Fitting = PLAIN) -> Self:
        """Go on learning from where the last fit or update ended; much cheaper than a new fit.

        Args:
            new: all there is by now, the older events too. Users and items may have come and gone: what was learnt of
                them is found by their names, and rows and codes are those of ``new`` from now on.
            fitting: as for ``fit``.

        Raises:
            MarqueeError: this model can only be fitted anew.
        """
        raise MarqueeError(f"{self.name()} cannot be updated; fit it anew")

    @abstractmethod
    def score(self, queries: Queries) -> Floats:
        """[n, I] how well each item would come next: comparable within a row, finite or -inf, higher is better."""

    @abstractmethod
    def state(self) -> dict[str, NDArray[Any]]:
        """All that was learned, as named arrays."""

    @abstractmethod
    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Take back what ``state`` gave."""

    def item_vectors(self) -> Floats | None:
        """[I, d] embeddings of the items, where the model has them."""
        return None

    def score_candidates(self, queries: Queries, candidates: Ints) -> Floats:
        """[n, m] scores of the given items [n, m] for each question."""
        parts = [
            np.take_along_axis(self.score(queries.take(rows)), candidates[rows], axis=1)
            for rows in self._batches(len(queries))
        ]
        return np.concatenate(parts) if parts else np.zeros(candidates.shape, np.float32)

    def recommend(self, queries: Queries, k: int, exclude_seen: bool = False) -> tuple[Ints, Floats]:
        """The best k of all items for each question, best first, ties by the item's code.

        Args:
            k: 1 to I.
            exclude_seen: leave out what is in the history; a row with too little left ends with scores of -inf.

        Returns:
            [n, k] items and [n, k] scores.
        """
        items = np.zeros((len(queries), k), dtype=np.int64)
        scores = np.zeros((len(queries), k), dtype=np.float32)
        for rows in self._batches(len(queries)):
            part = queries.take(rows)
            found = self.score(part)
            if exclude_seen:
                found[part.histories.users, part.histories.items] = -np.inf
            items[rows] = top_k(found, k)
            scores[rows] = np.take_along_axis(found, items[rows], axis=1)
        return items, scores

    def save(self, folder: Path) -> None:
        """Write settings as JSON and arrays without pickles."""
        folder.mkdir(parents=True, exist_ok=True)
        described = {"model": self.name(), "settings": dataclasses.asdict(self.settings)}
        (folder / "model.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
        arrays: dict[str, Any] = {"item_ids": self.item_ids, **self.state()}
        np.savez(folder / "arrays.npz", **arrays)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read what ``save`` wrote.

        Raises:
            MarqueeError: there is no model in the folder, or another one's.
        """
        described = read_description(folder)
        if described["model"] != cls.name():
            raise MarqueeError(f"{folder} holds {described['model']}, not {cls.name()}")
        model = cls(**described["settings"])
        with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
            state = dict(arrays)
        model.item_ids = state.pop("item_ids")
        model.restore(state)
        return model

    def _batches(self, count: int) -> Iterator[Ints]:
        size = max(1, min(1024, CELLS // max(1, len(self.item_ids))))
        for start in range(0, count, size):
            yield np.arange(start, min(start + size, count))


def model_names() -> list[str]:
    """Names of all models there are, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(training.models.__path__))


def model_class(name: str) -> type[Recommender]:
    """The model of that name.

    Raises:
        MarqueeError: there is none.
    """
    if name not in model_names():
        raise MarqueeError(f"there is no model {name!r}; there are {', '.join(model_names())}")
    found: type[Recommender] = importlib.import_module(f"training.models.{name}").MODEL
    return found


def load_model(folder: Path) -> Recommender:
    """The model that was saved in a folder, whichever it is."""
    return model_class(read_description(folder)["model"]).load(folder)


def read_description(folder: Path) -> dict[str, Any]:
    """Name and settings of the model saved in a folder."""
    try:
        described: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise MarqueeError(f"there is no model in {folder}") from None
    return described
