"""The values of a complete profile, each with where it comes from."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined


class Resolved(NamedTuple):
    """One value of a complete profile."""

    path: tuple[str | int, ...]
    value: Any
    source: str


def resolved(profile: BaseModel, written: Any, sources: Mapping[str, str]) -> list[Resolved]:
    """Every value of a complete profile, in order.

    Args:
        profile: complete.
        written: the same as somebody has written it: nested mappings and lists.
        sources: `Profile.sources`, for what is written.
    """
    return list(_resolved(profile, written, sources, (), "follows from what is written"))


def _resolved(
    model: BaseModel,
    written: Any,
    sources: Mapping[str, str],
    path: tuple[str | int, ...],
    otherwise: str,
) -> Iterator[Resolved]:
    """The values of one block.

    Args:
        otherwise: the source of a value that is neither written nor the default of its field.
    """
    for name, field in type(model).model_fields.items():
        value, where = getattr(model, name), (*path, name)
        given = written.get(name) if isinstance(written, dict) else None
        if isinstance(value, BaseModel):
            yield from _resolved(value, given, sources, where, otherwise)
        elif models_in(field.annotation) and isinstance(value, tuple | dict) and value:
            of_items = otherwise if given else source_of(field) or otherwise
            items = value.items() if isinstance(value, dict) else enumerate(value)
            for key, one in items:
                yield from _resolved(one, _item(given, key), sources, (*where, key), of_items)
        elif given is not None or (isinstance(written, str) and source_of(field) is None):
            yield Resolved(where, value, _said_of_written(where, sources))
        else:
            fixed = field.default_factory is None and field.default not in _OPEN
            followed = fixed and value != field.default
            source = None if followed else source_of(field)
            yield Resolved(where, value, source or otherwise)


_OPEN = (None, "auto", "", (), PydanticUndefined)
"""Defaults that stand for a rule."""


def _item(given: Any, key: str | int) -> Any:
    if isinstance(given, dict):
        return given.get(key)
    if isinstance(given, list) and isinstance(key, int) and key < len(given):
        return given[key]
    return None


def _said_of_written(path: tuple[str | int, ...], sources: Mapping[str, str]) -> str:
    dotted = [".".join(map(str, path[:n])) for n in range(len(path), 0, -1)]
    return next((f"written; {sources[d]}" for d in dotted if d in sources), "written")


def source_of(field: FieldInfo) -> str | None:
    """Where the default of a field comes from (`ila_core.config.base.default`)."""
    extra = field.json_schema_extra
    return str(extra["source"]) if isinstance(extra, dict) and "source" in extra else None


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The blocks that a field holds: itself, one of several, or in a list or a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [one for inner in get_args(annotation) for one in models_in(inner)]
