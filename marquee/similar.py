"""The verb for similar items. Part of the composition root, as ``cli`` is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from marquee import bench_options as of
from marquee import console
from marquee.errors import MarqueeError, SettingsError
from marquee.options import Home, Json, command_settings
from marquee.settings import Settings

Option = typer.Option


def similar_items(
    item: Annotated[str, typer.Argument(help="The item that is looked at.")],
    visitor: Annotated[str | None, Option(help="Who looks at it; without, similarity alone decides.")] = None,
    k: Annotated[int, Option(min=1, help="How many to show.")] = 10,
    seen: Annotated[bool, Option(help="Show what the visitor had already, too.")] = False,
    data: Annotated[
        Path | None, Option(help="Events to learn from; the installation's product events if not given.")
    ] = None,
    model: Annotated[str, Option(help="A model with item vectors, such as als, bpr or two_tower.")] = "als",
    changes: of.Changes = None,
    columns: of.Columns = "",
    format: of.Format = "auto",
    seed: of.Seed = None,
    home: Home = None,
    as_json: Json = False,
) -> None:
    """Show what is like an item and likely to please one visitor, and how good such lists are on held-out events."""
    settings = command_settings(home, after=None if data else "transform", seed=seed)
    fresh = _model(model, changes or [], settings.seed)
    with console.progress("fit similar items", None, settings.quiet):
        events = _events(data, columns, format, settings)
        found = _found(events, item, visitor, k, seen, fresh)
    rows: list[list[object]] = [
        [one["item"], *(f"{one[name]:.2f}" for name in ("log_odds", "by_similarity", "by_taste"))]
        for one in found["similar"]
    ]
    whose = f" for {visitor}" if visitor else ""
    lines = [console.table(f"like {item}{whose}", ["item", "log-odds", "by similarity", "by taste"], rows)]
    lines += [f"similarity counts {found['weight']:.1f}, taste {1 - found['weight']:.1f}; NDCG@20 on later events:"]
    lines += [f"  {name:<11} {quality['ndcg@20']:.4f}" for name, quality in found["quality"].items()]
    console.show(found, lines, as_json)


def _model(name: str, changes: list[str], seed: int) -> Any:
    """A function that makes the model, unfitted."""
    from training.harness.model_list import chosen_models, parse_settings, with_common
    from training.recommender import model_class

    chosen = parse_settings(changes)
    if other := next((one for one in chosen if one != name), None):
        raise SettingsError(f"--set names {other}, which is not --model {name}")
    settings = with_common(chosen_models(name), chosen, seed=seed)[name]
    return lambda: model_class(name)(**settings)


def _events(data: Path | None, columns: str, format: str, settings: Settings) -> Any:
    """Who took what and when."""
    if data is None:
        from training.banner_scores import read_products

        return read_products(settings, [])[0]
    return of.read_interactions(data, columns, format)


def _found(events: Any, item: str, visitor: str | None, k: int, seen: bool, model: Any) -> dict[str, Any]:
    """The list, what each part says of its items, and what such lists are worth."""
    import numpy as np

    from training.interactions import ask
    from training.similar import fit_on

    code = _place(events.item_ids, item, "item")
    row = _place(events.user_ids, visitor, "visitor") if visitor else 0
    similar, quality = fit_on(events, model)
    histories = events.take(np.array([row]))
    if visitor is None:
        histories = histories.where(np.zeros(len(histories), dtype=bool))
        similar = similar.with_weight(1.0)
    queries, looked = ask(histories, events), np.array([code])
    items, scores = similar.similar(looked, queries, min(k, len(events.item_ids) - 1), unseen=not seen)
    by_similarity, by_taste = similar.log_odds(looked, queries)
    told = [
        {
            "item": str(events.item_ids[one]),
            "log_odds": float(score),
            "by_similarity": float(by_similarity[0, one]),
            "by_taste": float(by_taste[0, one]),
        }
        for one, score in zip(items[0], scores[0], strict=True)
        if np.isfinite(score)
    ]
    return {"item": item, "visitor": visitor, "similar": told, "weight": similar.blend.weight, "quality": quality}


def _place(ids: Any, name: str | None, what: str) -> int:
    import numpy as np

    from training.interactions import places

    place = int(places(ids, np.array([str(name)]))[0])
    if place < 0:
        raise MarqueeError(f"no event has the {what} {name!r}; the first {what}s are {', '.join(map(str, ids[:3]))}")
    return place
