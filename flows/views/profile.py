"""`ila plan --resolved`: every field of a profile, and where its value comes from."""

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

import typer
import yaml

from flows.results.profile_plan import ProfilePlan
from flows.views.printing import print_json
from ila_core.config.load import Given, written
from ila_core.config.resolved import Resolved, resolved


def show_resolved(
    planned: ProfilePlan, given: Given, overrides: Sequence[str], *, as_json: bool
) -> None:
    """Print a complete profile as YAML, the source of each value behind it.

    What a dataset decides for itself alone, its held-out fraction and its longest row, stands in
    the plan; a schedule stays open while the dataset's rows are not known.
    """
    tree, _ = written(given, overrides)
    values = resolved(planned.profile, tree, planned.given.sources)
    if as_json:
        return print_json(
            {
                "profile": planned.profile.model_dump(mode="json"),
                "sources": {".".join(map(str, x.path)): x.source for x in values},
            }
        )
    shown: tuple[str | int, ...] = ()
    for found in values:
        for line in _lines(found, shown):
            typer.echo(line)
        shown = found.path


def _lines(found: Resolved, shown: tuple[str | int, ...]) -> list[str]:
    """The lines of one value, below those of the path that was shown last."""
    same = [*takewhile(lambda pair: pair[0] == pair[1], zip(found.path, shown, strict=False))]
    lines = []
    for depth in range(len(same), len(found.path)):
        part = found.path[depth]
        if isinstance(part, int):
            continue  # its first field begins with a dash
        dash = depth > len(same) and isinstance(found.path[depth - 1], int)
        indent = "  " * depth
        lines.append(f"{indent[:-2]}- {part}:" if dash else f"{indent}{part}:")
    lines[-1] += f" {_as_yaml(found.value)}  # {found.source}"
    return lines


def _as_yaml(value: Any) -> str:
    """A value in YAML, on one line."""
    plain = [*value] if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...").strip()
