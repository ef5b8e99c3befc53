"""Which models there are, and settings that a person chose for them, checked before anything is fitted."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import training.models
from marquee.errors import MarqueeError, SettingsError
from training.harness.model_source import Listing, import_listing, read_listing
from training.recommender import model_names

Chosen = dict[str, dict[str, Any]]
"""Settings other than the defaults, by model, or by model and label."""


def base_name(name: str) -> str:
    """The model of a name with a label: ``sasrec:long`` is ``sasrec`` with settings of its own."""
    return name.partition(":")[0]


def model_file(name: str) -> Path:
    """The file of a model, with or without a label."""
    return Path(next(iter(training.models.__path__))) / f"{base_name(name)}.py"


@cache
def listing(name: str) -> Listing:
    """The model of that name, with or without a label.

    Raises:
        MarqueeError: there is none, or its file is not Python.
    """
    name = base_name(name)
    require_model(name)
    path = model_file(name)
    try:
        found = read_listing(name, path)
    except SyntaxError as error:
        raise MarqueeError(f"{path} line {error.lineno}: {error.msg}") from None
    return found or import_listing(name)


def listings() -> list[Listing]:
    """All models; one whose file cannot be read says so instead of what it is."""
    found = []
    for name in model_names():
        try:
            found.append(listing(name))
        except Exception as error:  # whatever a file of somebody's does when it is read or imported
            found.append(Listing(name, f"cannot be read: {error}", ()))
    return found


def chosen_models(names: str) -> list[str]:
    """The models that a comma-separated list names, in its order; ``all`` names every one.

    A model may be named more than once with labels, each of which has settings of its own: ``ease,ease:strong``.

    Raises:
        MarqueeError: a name that is no model's, or no name at all.
    """
    wanted = list(dict.fromkeys(name.strip() for name in names.split(",") if name.strip()))
    if not wanted:
        raise MarqueeError(f"--models names none; there are {', '.join(model_names())}")
    if wanted == ["all"]:
        return model_names()
    for name in wanted:
        require_model(name)
    return wanted


def require_model(name: str) -> None:
    """Refuse a name that is no model's.

    Raises:
        MarqueeError: it is not.
    """
    if base_name(name) not in model_names():
        raise MarqueeError(f"there is no model {name!r}; there are {', '.join(model_names())}")


def parse_settings(texts: list[str]) -> Chosen:
    """Settings given as ``model.setting=value``.

    Raises:
        MarqueeError: not of that form, an unknown model or setting, or a value that does not fit.
    """
    chosen: Chosen = {}
    for text in texts:
        name, equals, value = text.partition("=")
        model, dot, setting = name.strip().partition(".")
        if not (equals and dot and model and setting):
            raise SettingsError(f"--set {text}: write it as model.setting=value, for example ease.regularisation=200")
        chosen.setdefault(model, {})[setting] = typed(model, setting, _value(value.strip()))
    return chosen


def read_settings(path: Path) -> Chosen:
    """Settings from a TOML file with a table for each model, as ``tune-models`` writes it.

    Raises:
        MarqueeError: no such file, not TOML, an unknown model or setting, or a value that does not fit.
    """
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from None
    chosen: Chosen = {}
    for model, values in tables.items():
        if not isinstance(values, dict):
            raise SettingsError(f"{path}: {model} stands outside a table; begin with a line [model]")
        try:
            chosen[model] = {setting: typed(model, setting, value) for setting, value in values.items()}
        except MarqueeError as error:
            raise SettingsError(f"{path}: {error}") from None
    return chosen


def typed(model: str, name: str, value: Any) -> Any:
    """The value as the setting's type wants it: a whole number where a fraction may stand, a list as a tuple.

    Raises:
        MarqueeError: an unknown model or setting, or another type.
    """
    setting = listing(model).setting(name)
    if isinstance(value, list):
        value = tuple(value)
    if setting.kind.startswith("tuple") and not isinstance(value, tuple):
        value = (value,)
    if setting.kind == "float" and type(value) is int:
        return float(value)
    plain = {"int": int, "float": float, "bool": bool, "str": str}.get(setting.kind)
    if plain and type(value) is not plain:
        raise SettingsError(f"{model}.{name} takes {_article(setting.kind)}, not {value!r}")
    if (options := _options(setting.kind)) and value not in options:
        raise SettingsError(f"{model}.{name} is one of {', '.join(map(str, options))}, not {value!r}")
    return value


def with_common(models: list[str], chosen: Chosen, **values: Any) -> Chosen:
    """The chosen settings, and ``values``, None left out, for every model that has them and was not told other."""
    complete: Chosen = {}
    for model in models:
        try:
            names = {setting.name for setting in listing(model).settings}
        except MarqueeError:  # a file that cannot be read is a failed row of the table, with its reason
            names = set()
        common = {
            name: typed(model, name, value) for name, value in values.items() if name in names and value is not None
        }
        complete[model] = common | chosen.get(model, {})
    return complete


def _options(kind: str) -> tuple[Any, ...]:
    """What a ``Literal[…]`` allows; empty for any other type."""
    match = re.fullmatch(r"(?:typing\.)?Literal\[(.+)\]", kind)
    return ast.literal_eval(f"({match[1]},)") if match else ()


def _value(text: str) -> Any:
    """A number, a truth value, a list or else the text itself."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _article(kind: str) -> str:
    return {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}[kind]
