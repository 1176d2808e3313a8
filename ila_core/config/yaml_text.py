"""YAML of a profile: texts, numbers, lists and mappings, and nothing that reads as what it is not.

Dates, octal numbers (0123) and sixtieths (1:30) stay the texts that were written.
"""

import itertools
import math
import re
from collections.abc import Iterator
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from ila_core.errors import UserError, first_line

_MOST_VALUES = 100_000
"""More than any profile has; a few lines with aliases of aliases make billions."""
_LARGEST = 2**63 - 1
_KINDS = ("null", "bool", "int", "float", "str", "seq", "map")
_TAG = "tag:yaml.org,2002:"
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)$")


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if key.value in lines:
                problem = f"{key.value!r} is given in line {lines[key.value]} already"
                raise ConstructorError(None, None, problem, key.start_mark)
            lines[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep)


_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.removeprefix(_TAG) in _KINDS
}
_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, _INTEGER if tag == f"{_TAG}int" else expression)
        for tag, expression in resolvers
        if tag != f"{_TAG}timestamp"
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(text: str, where: str) -> Any:
    """What `text` says.

    Raises:
        UserError: it is no YAML, or what no field can hold is in it; `where` says of what.
    """
    try:
        value = yaml.load(text, _Loader)  # a SafeLoader of fewer kinds
        for dotted, problem in _problems(value, (), itertools.count()):
            at = ".".join(map(str, dotted))
            raise UserError(f"{where}: {at}: {problem}" if at else f"{where}: {problem}")
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{where}: not readable as YAML: {line}{error.problem}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{where}: not readable as YAML: {first_line(error)}") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply, or within itself by an alias") from error
    except ValueError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{where}: not readable as YAML: {first_line(error)}") from error
    return value


def _problems(
    value: Any, at: tuple[str | int, ...], seen: Iterator[int]
) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield where something stands that no field can hold, and what is wrong with it."""
    if next(seen) > _MOST_VALUES:
        yield (), f"more than {_MOST_VALUES:,} values; aliases of aliases multiply"
    elif isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                yield at, f"the key {key!r} is no text; put it in quotes"
            yield from _problems(inner, (*at, key), seen)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _problems(inner, (*at, number), seen)
    elif isinstance(value, float) and not math.isfinite(value):
        yield at, f"given {value}; allowed is a finite number"
    elif isinstance(value, int) and abs(value) > _LARGEST:
        yield at, "given a whole number beyond 64 bits"
    elif isinstance(value, str) and ("\0" in value or not _encodes(value)):
        yield at, f"given {value[:40]!r}, which is no text that a file or a tokenizer can hold"


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
