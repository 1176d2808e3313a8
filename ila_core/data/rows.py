"""Rows of a JSON, JSON Lines or Parquet file, each knowing where it stands for error messages."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ila_core.errors import UserError


@dataclass(frozen=True, slots=True)
class SourceRow:
    """One row as it was read."""

    file: Path
    number: int
    """1-based; in JSON Lines the number of the line."""
    fields: dict[str, Any]

    def value(self, field: str) -> Any:
        """What `field` holds; a row without it is an error."""
        if field not in self.fields:
            has = ", ".join(map(str, self.fields)) or "no field"
            raise self.wrong(field, f"missing; the row has {has}")
        return self.fields[field]

    def text(self, field: str) -> str:
        """The text that `field` holds."""
        return self.as_text(field, self.value(field))

    def optional_text(self, field: str) -> str:
        """The text that `field` holds; empty where the field is missing or null."""
        value = self.fields.get(field)
        return "" if value is None else self.as_text(field, value)

    def as_text(self, field: str, value: Any) -> str:
        """`value`, found at `field`, as text that a tokenizer can read."""
        if not isinstance(value, str):
            raise self.wrong(field, f"given {shown(value)}; allowed is a text")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            # JSON can escape half of a surrogate pair, which no tokenizer accepts.
            raise self.wrong(field, f"not valid Unicode text ({error.reason})") from error
        return value

    def as_list(self, field: str) -> list[Any]:
        """The list that `field` holds, with at least one item."""
        value = self.value(field)
        if not isinstance(value, list) or not value:
            raise self.wrong(field, f"given {shown(value)}; allowed is a list with an item or more")
        return value

    def wrong(self, field: str, problem: str) -> UserError:
        return UserError(f"{self.file}, row {self.number}, field {field!r}: {problem}")


def shown(value: Any) -> str:
    """`value` for an error message: its type and its beginning."""
    if value is None:
        return "null"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 40 else text[:37] + '...'}"


def read_rows(path: Path) -> Iterator[SourceRow]:
    """Every row of `path`, in order; how it is read follows from the name's ending.

    Raises:
        UserError: a missing file, another ending, or content that is not what the ending says.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"data file {path} {what}")
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise UserError(f"data file {path}: allowed endings are {', '.join(_READERS)}")
    for number, fields in reader(path):
        if not isinstance(fields, dict):
            raise UserError(f"{path}, row {number}: given {shown(fields)}; allowed is an object")
        yield SourceRow(path, number, fields)


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _parse(line, f"{path}, row {number}")


def _json_array(path: Path) -> Iterator[tuple[int, Any]]:
    rows = _parse(path.read_bytes(), f"{path}")
    if not isinstance(rows, list):
        raise UserError(
            f"{path}: given {shown(rows)}; allowed is one array of objects (one object per line "
            "needs the ending .jsonl)"
        )
    yield from enumerate(rows, start=1)


def _parse(content: bytes, where: str) -> Any:
    try:
        return json.loads(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        hint = "; one object per line needs the ending .jsonl" if error.msg == "Extra data" else ""
        raise UserError(f"{where}: not JSON ({error}){hint}") from error


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        table = pyarrow.parquet.read_table(path)
    except pyarrow.ArrowInvalid as error:
        raise UserError(f"{path}: not readable as Parquet ({error})") from error
    yield from enumerate(table.to_pylist(), start=1)


_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json_lines,
    ".json": _json_array,
    ".parquet": _parquet,
}
