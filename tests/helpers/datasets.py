"""Small dataset files, and how they are read."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

from ila_core.config import DatasetConfig
from ila_core.data import Dataset
from ila_core.data.conversation import Conversation

EXCHANGE = {"prompt": "Hi", "response": "Hello!"}
MESSAGES = {
    "messages": [
        {"role": "system", "content": "Be terse."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
}


def write(path: Path, rows: list[object]) -> Path:
    """Write rows as the name's ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".jsonl.gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.name.endswith(".jsonl.zst"):
        import zstandard

        path.write_bytes(zstandard.compress(lines.encode()))
    elif path.suffix in (".jsonl", ".ndjson"):
        path.write_text(lines)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix in (".csv", ".tsv"):
        import pandas as pd

        pd.DataFrame(rows).to_csv(path, index=False, sep="," if path.suffix == ".csv" else "\t")
    else:
        import pandas as pd

        pd.DataFrame(rows).to_parquet(path)
    return path


def dataset(source: Path | str, **fields: object) -> Dataset:
    return Dataset(DatasetConfig(source=str(source), **fields), None)  # type: ignore[arg-type]


def read(path: Path, *rows: object, **fields: object) -> Dataset:
    """The dataset of a file with these rows, read."""
    return dataset(write(path / "rows.jsonl", list(rows)), **fields).read()


def said(conversation: Conversation) -> list[tuple[str, str]]:
    return [(m.role, m.content) for m in conversation.messages]
