"""Rows of a data file, each knowing where it stands for error messages.

JSON and JSON Lines are read line by line here, so that one bad line is one bad row. Parquet and
Arrow are read by `datasets`, as a stream; CSV is not: there 007 becomes 7 and "None" nothing.
"""

import codecs
import csv
import gzip
import io
import logging
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ila_core.data.json_files import parsed_json
from ila_core.errors import UserError, first_line


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
    for row in rows_and_problems(path):
        if isinstance(row, UserError):
            raise row
        yield row


def rows_and_problems(path: Path) -> Iterator[SourceRow | UserError]:
    """Yield every row of `path`, or in the place of one that cannot be read what is wrong with it.

    Raises:
        UserError: a missing file, another ending, or a file that cannot be read at all.
    """
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise UserError(f"data file {path} {what}")
    reader = _READERS.get(ending(path))
    if reader is None:
        allowed = f"{', '.join(_READERS)}, also with {' or '.join(_COMPRESSED)}"
        raise UserError(f"data file {path}: allowed endings are {allowed}")
    for number, fields in reader(path):
        if isinstance(fields, UserError):
            yield fields
        elif isinstance(fields, dict):
            yield SourceRow(path, number, fields)
        else:
            yield UserError(f"{path}, row {number}: given {shown(fields)}; allowed is an object")


def ending(path: Path) -> str:
    """The ending that says how a file is read: `.jsonl` of `rows.jsonl.gz`."""
    name = path.with_suffix("") if path.suffix in _COMPRESSED else path
    return name.suffix.lower()


def readable(path: Path) -> bool:
    """Whether the ending is one that is read."""
    return ending(path) in _READERS


def _json(path: Path) -> Iterator[tuple[int, Any]]:
    """An array of objects, or one object per line."""
    try:
        with _opened(path) as file:
            if _first_byte(file) == b"[":
                yield from _array(path, file)
            else:
                for number, line in enumerate(file, start=1):
                    if line.strip():
                        yield number, _parsed(line, f"{path}, row {number}")
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read to its end ({first_line(error)})") from error


def _array(path: Path, file: IO[bytes]) -> Iterator[tuple[int, Any]]:
    yield from enumerate(parsed_json(file.read(), path), start=1)


def _opened(path: Path) -> IO[bytes]:
    """The file's bytes, decompressed, and as UTF-8 where a byte order mark says UTF-16."""
    decompress = _COMPRESSED.get(path.suffix)
    file: IO[bytes] = decompress(path) if decompress else path.open("rb")
    start = file.read(2)
    file.seek(0)
    if start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        with file:
            return io.BytesIO(file.read().decode("utf-16").encode())
    return file


def _zstandard(path: Path) -> IO[bytes]:
    import zstandard

    content, text = path.read_bytes(), io.BytesIO()
    try:
        while content:  # frame by frame: `zstandard.open` takes a file that was cut off for whole
            frame = zstandard.ZstdDecompressor().decompressobj()
            text.write(frame.decompress(content))
            if not frame.eof:
                raise UserError(f"{path}: cannot be read to its end: it was cut off")
            content = frame.unused_data
    except zstandard.ZstdError as error:
        raise UserError(f"{path}: not readable as zstandard ({error})") from error
    text.seek(0)
    return text


def _first_byte(file: IO[bytes]) -> bytes:
    """The first byte that is no white space and no mark, read without moving on."""
    start = file.read(4096).removeprefix(codecs.BOM_UTF8).lstrip()
    file.seek(0)
    return start[:1]


def _parsed(line: bytes, where: str) -> Any:
    """What the line says, or a `UserError` in its place."""
    try:
        return parsed_json(line, where)
    except UserError as error:
        return error


def _csv(path: Path, delimiter: str = ",") -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(2**31 - 1)
    try:
        with io.TextIOWrapper(_opened(path), encoding="utf-8-sig", newline="") as file:
            for number, fields in enumerate(
                csv.DictReader(file, delimiter=delimiter, strict=True), 1
            ):
                more = fields.pop(None, None)
                problem = (
                    f"{path}, row {number}: {len(more or [])} values more than there are columns"
                )
                yield number, UserError(problem) if more else fields
    except (csv.Error, EOFError, OSError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not readable as CSV ({first_line(error)})") from error


def _table(kind: str) -> Callable[[Path], Iterator[tuple[int, Any]]]:
    def read(path: Path) -> Iterator[tuple[int, Any]]:
        from datasets import load_dataset

        logging.getLogger("datasets").setLevel(logging.CRITICAL)  # the error says it
        try:
            table = load_dataset(kind, data_files=str(path), split="train", streaming=True)
            yield from enumerate(table.decode(False), start=1)
        except Exception as error:  # of pyarrow, or of datasets itself
            cause = first_line(error.__cause__ or error)
            raise UserError(f"{path}: not readable as {kind} ({cause})") from error

    return read


_COMPRESSED: dict[str, Callable[[Path], Any]] = {".gz": gzip.open, ".zst": _zstandard}
_READERS: dict[str, Callable[[Path], Iterator[tuple[int, Any]]]] = {
    ".jsonl": _json,
    ".ndjson": _json,
    ".json": _json,
    ".parquet": _table("parquet"),
    ".arrow": _table("arrow"),
    ".csv": _csv,
    ".tsv": lambda path: _csv(path, "\t"),
}
