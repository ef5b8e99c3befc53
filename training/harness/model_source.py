"""What a model's file says of it, read as text: naming models and their settings must not load TensorFlow."""

from __future__ import annotations

import ast
import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marquee.errors import SettingsError
from marquee.settings import ROOT
from training.recommender import model_class


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of a model: its name, its type as the file writes it, its default and what it means."""

    name: str
    kind: str
    default: Any
    about: str


@dataclass(frozen=True, slots=True)
class Listing:
    """A model as a person chooses it."""

    name: str
    about: str
    settings: tuple[Setting, ...]

    def setting(self, name: str) -> Setting:
        """The setting of that name.

        Raises:
            SettingsError: there is none.
        """
        for one in self.settings:
            if one.name == name:
                return one
        known = ", ".join(one.name for one in self.settings) or "none"
        raise SettingsError(f"{self.name} has no setting {name!r}; it has {known}")


def read_listing(name: str, path: Path) -> Listing | None:
    """What the file says literally; None where it says it in another way than model files usually do."""
    classes = _classes(path)
    model = _assigned(ast.parse(path.read_text(encoding="utf-8")).body).get("MODEL")
    if not (isinstance(model, ast.Name) and model.id in classes):
        return None
    values = _assigned(classes[model.id][0].body)
    about, settings = values.get("about"), values.get("Settings")
    if not (isinstance(about, ast.Constant) and isinstance(settings, ast.Name) and settings.id in classes):
        return None
    found = _fields(*classes[settings.id])
    return None if found is None else Listing(name, str(about.value), tuple(found.values()))


def _assigned(body: list[ast.stmt]) -> dict[str, ast.expr]:
    """What is assigned to plain names."""
    return {
        target.id: node.value
        for node in body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }


def _classes(path: Path) -> dict[str, tuple[ast.ClassDef, Path]]:
    """Classes by the name they have in a file, with the file each is written in: its own, and those it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found: dict[str, tuple[ast.ClassDef, Path]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found[node.name] = (node, path)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("training."):
            other = ROOT.joinpath(*str(node.module).split(".")).with_suffix(".py")
            theirs = _classes(other) if other.is_file() else {}
            names = [(alias.name, alias.asname or alias.name) for alias in node.names]
            found |= {own: theirs[name] for name, own in names if name in theirs}
    return found


def _fields(node: ast.ClassDef, path: Path) -> dict[str, Setting] | None:
    """Fields of a settings class, inherited ones first; None if one is not written out where it can be read."""
    classes = _classes(path)
    found: dict[str, Setting] = {}
    for base in node.bases:
        inherited = _fields(*classes[base.id]) if isinstance(base, ast.Name) and base.id in classes else None
        if inherited is None:
            return None
        found |= inherited
    abouts = _abouts(ast.get_docstring(node) or "")
    for one in node.body:
        if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
            try:
                default = ast.literal_eval(one.value) if one.value else None
            except ValueError:
                return None
            name = one.target.id
            about = abouts.get(name) or (found[name].about if name in found else "")
            found[name] = Setting(name, ast.unparse(one.annotation), default, about)
    return found


def import_listing(name: str) -> Listing:
    """The same from the imported model."""
    kind = model_class(name)
    abouts: dict[str, str] = {}
    for one in reversed(kind.Settings.__mro__):
        abouts |= _abouts(one.__doc__ or "")
    fields = dataclasses.fields(kind.Settings)
    defaults = dataclasses.asdict(kind.Settings())
    return Listing(
        name,
        kind.about,
        tuple(Setting(one.name, str(one.type), defaults[one.name], abouts.get(one.name, "")) for one in fields),
    )


def _abouts(docstring: str) -> dict[str, str]:
    """What ``Attributes:`` says of each, line breaks removed."""
    _, _, part = docstring.partition("Attributes:")
    found: dict[str, str] = {}
    name = ""
    for line in part.splitlines():
        if match := re.match(r"\s{0,8}(\w+): (.+)", line):
            name = match[1]
            found[name] = match[2].strip()
        elif name and line.strip():
            found[name] += " " + line.strip()
    return found
