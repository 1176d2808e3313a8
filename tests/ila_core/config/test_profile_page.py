"""`docs/PROFILE.md`: every field of a profile, held equal to the configuration.

python -m tests.ila_core.config.test_profile_page      writes it anew
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from functools import cache
from typing import Any, NamedTuple

import pytest
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ila_core.config import Profile
from ila_core.config.resolved import models_in, source_of
from tests.conftest import ROOT

PAGE = ROOT / "docs" / "PROFILE.md"
HEAD = """# Every field of a profile

A profile is a YAML file, and `{model: ..., datasets: [...]}` is a complete one: every other field
has a default. `ila plan PROFILE --resolved` prints all values of a run with their sources,
`--save mine.yaml` writes down what was given, and `--set a.b=c` changes one field. A default that
the model or the data decide is worked out before any key is computed, and hashed as if it had been
written. This page is made from the configuration (`ila_core/config`), and a test holds it equal.
"""
WORDS = ("required", "by name")
RULES = {
    ("LoraSettings", "alpha"): "2 r",
    ("LoraMethod", "alpha"): "2 r",
    ("AdaLoraMethod", "alpha"): "3 r",
    ("AdaLoraMethod", "initial_r"): "1.5 r",
}
"""Defaults that the fields before them decide."""


class Described(NamedTuple):
    """One field of a profile."""

    name: str
    default: str
    """As YAML, or one of `WORDS`."""
    source: str
    """Where the default comes from."""
    meaning: str
    """One sentence."""


class Block(NamedTuple):
    """One part of a profile."""

    places: list[str]
    """Where it stands, dotted; empty for the profile itself."""
    about: str
    fields: list[Described]


def blocks() -> list[Block]:
    """The parts of a profile, in order; one that stands in several places comes once."""
    found: dict[type[BaseModel], Block] = {}
    _collect(Profile, "", found)
    return list(found.values())


def _collect(model: type[BaseModel], path: str, found: dict[type[BaseModel], Block]) -> None:
    if model in found:
        found[model].places.append(path)
        return
    about = model.__doc__ or ""
    own = [
        _described(model, name, field)
        for name, field in model.model_fields.items()
        if not models_in(field.annotation) or source_of(field)
    ]
    found[model] = Block([path] if path else [], about, own)
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            _collect(inner, f"{path}.{name}".lstrip("."), found)


def _described(model: type[BaseModel], name: str, field: FieldInfo) -> Described:
    return Described(
        name, _default(model, name, field), source_of(field) or "", meanings(model).get(name, "")
    )


def _default(model: type[BaseModel], name: str, field: FieldInfo) -> str:
    if field.default_factory is not None:
        return RULES[model.__name__, name]
    if field.default is PydanticUndefined:
        return "by name" if source_of(field) else "required"
    return as_yaml(field.default)


@cache
def meanings(model: type[BaseModel]) -> dict[str, str]:
    """The docstring below each field of a model, and of those that it inherits."""
    found: dict[str, str] = {}
    for one in reversed(model.__mro__):
        if not issubclass(one, BaseModel) or one.__module__.startswith("pydantic"):
            continue
        (defined,) = ast.parse(textwrap.dedent(inspect.getsource(one))).body
        assert isinstance(defined, ast.ClassDef)
        for field, text in zip(defined.body, defined.body[1:], strict=False):
            if (
                isinstance(field, ast.AnnAssign)
                and isinstance(field.target, ast.Name)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
            ):
                found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def as_yaml(value: Any) -> str:
    """A value in YAML, on one line."""
    plain = [*value] if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()


def page() -> str:
    parts = [HEAD]
    for block in blocks():
        title = ", ".join(f"`{place}`" for place in block.places) or "The profile"
        parts.append(f"\n## {title}\n\n{' '.join(block.about.split())}\n")
        if block.fields:
            parts.append("\n| field | default | from | meaning |\n|---|---|---|---|\n")
        for field in block.fields:
            default = field.default if field.default in WORDS else f"`{field.default}`"
            cells = (f"`{field.name}`", default, field.source, field.meaning)
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n")
    return "".join(parts)


def test_the_page_is_that_of_the_configuration() -> None:
    assert PAGE.read_text() == page(), (
        "write it anew: python -m tests.ila_core.config.test_profile_page"
    )


@pytest.mark.parametrize("block", blocks(), ids=lambda block: ",".join(block.places))
def test_every_field_has_a_meaning_and_every_default_a_source(block: Block) -> None:
    assert block.about
    assert [f.name for f in block.fields if not f.meaning] == []
    assert [f.name for f in block.fields if not f.source and f.default != "required"] == []


if __name__ == "__main__":
    PAGE.write_text(page())
