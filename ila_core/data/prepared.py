"""Prepared data: token rows in three splits, saved as safetensors beside their statistics."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, overload

import numpy as np

from ila_core.data.batches import loss_tokens
from ila_core.data.counts import Counts
from ila_core.errors import CheckError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ila_core.data.batches import Tokens

Split = Literal["train", "gate", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)

_ROWS, _STATISTICS = "prepared.safetensors", "prepared.json"


@dataclass(frozen=True, slots=True)
class Row:
    input_ids: Tokens
    labels: Tokens
    """`input_ids` where the token is in the loss, `IGNORED` elsewhere."""


class Rows(Sequence[Row]):
    """The rows of a split in arrays: four bytes a token, where lists take forty."""

    def __init__(self) -> None:
        self._ids, self._labels, self._offsets = array("i"), array("i"), array("q", [0])

    def append(self, row: Row) -> None:
        """Add a row behind the others."""
        for numbers, given in ((self._ids, row.input_ids), (self._labels, row.labels)):
            numbers.frombytes(np.asarray(given, dtype=np.int32).tobytes())
        self._offsets.append(len(self._ids))

    def __len__(self) -> int:
        return len(self._offsets) - 1

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        at = range(len(self))[index]
        start, end = self._offsets[at], self._offsets[at + 1]
        return Row(*(np.frombuffer(x, np.int32)[start:end] for x in (self._ids, self._labels)))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The rows as they are saved: `offsets` (rows + 1), `input_ids` and `labels` (tokens)."""
        return {
            "offsets": np.frombuffer(self._offsets, np.int64),
            "input_ids": np.frombuffer(self._ids, np.int32),
            "labels": np.frombuffer(self._labels, np.int32),
        }

    @classmethod
    def of(cls, offsets: NDArray[Any], ids: NDArray[Any], labels: NDArray[Any]) -> Rows:
        """The rows that `arrays` was made of."""
        rows = cls()
        rows._offsets = array("q", offsets.tobytes())
        rows._ids, rows._labels = array("i", ids.tobytes()), array("i", labels.tobytes())
        return rows


@dataclass(frozen=True)
class Prepared:
    """A dataset ready for training, and what became of the rows that are not in it."""

    dataset: str
    splits: dict[Split, Rows]
    """The rows of each split in dataset order; no two splits share a prompt."""
    counts: Counts

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every token and label of every split."""
        return _digest(self._arrays())

    @cached_property
    def statistics(self) -> dict[str, Any]:
        """What `prepared.json` says."""
        return {
            "dataset": self.dataset,
            "digest": self.digest,
            "rows": {split: len(rows) for split, rows in self.splits.items()},
            "tokens": {
                split: {
                    "all": sum(len(row.input_ids) for row in rows),
                    "loss": sum(map(loss_tokens, rows)),
                }
                for split, rows in self.splits.items()
            },
            **self.counts.model_dump(),
        }

    def save(self, folder: Path) -> None:
        """Write `prepared.safetensors` and `prepared.json` into `folder`."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._arrays(), folder / _ROWS)
        text = json.dumps(self.statistics, indent=1)
        (folder / _STATISTICS).write_text(text + "\n", encoding="ascii")

    @classmethod
    def load(cls, folder: Path) -> Prepared:
        """Read what `save` wrote.

        Raises:
            CheckError: when the rows are not those that the statistics were written for.
        """
        from safetensors.numpy import load_file

        statistics = json.loads((folder / _STATISTICS).read_bytes())
        arrays = load_file(folder / _ROWS)
        if _digest(arrays) != statistics["digest"]:
            raise CheckError(f"{folder / _ROWS} is damaged: its digest is not the recorded one")
        return cls(
            dataset=statistics["dataset"],
            splits={split: _rows(arrays, split) for split in SPLITS},
            counts=Counts(**{name: statistics[name] for name in Counts.model_fields}),
        )

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            f"{split}.{name}": values
            for split in SPLITS
            for name, values in self.splits[split].arrays().items()
        }


def longest(folder: Path, split: Split) -> int:
    """Tokens of the longest row of a split that `Prepared.save` wrote; no row is read."""
    from safetensors import safe_open

    with safe_open(folder / _ROWS, framework="numpy") as saved:
        return int(np.diff(saved.get_tensor(f"{split}.offsets")).max())


def _rows(arrays: Mapping[str, NDArray[Any]], split: Split) -> Rows:
    return Rows.of(*(arrays[f"{split}.{name}"] for name in ("offsets", "input_ids", "labels")))


def _digest(arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}:{len(arrays[name])}:".encode())
        digest.update(arrays[name].data)
    return digest.hexdigest()
