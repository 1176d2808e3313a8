"""Printing for all commands: a table for a person, one JSON value for a program."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    import pandas as pd


def print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=1))


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    # Piped output keeps every column whole; a terminal wraps.
    width = None if sys.stdout.isatty() else 240
    Console(width=width, markup=False, highlight=False).print(table)


def print_frame(frame: pd.DataFrame) -> None:
    from ila_core.report.tables import formatted

    text = formatted(frame)
    print_table([str(c) for c in text.columns], [list(map(str, row)) for row in text.to_numpy()])
