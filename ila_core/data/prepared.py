"""Prepared data: token rows in three splits, saved as safetensors beside their statistics."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ila_core.data.batches import loss_tokens
from ila_core.errors import CheckError

if TYPE_CHECKING:
    from numpy.typing import NDArray

Split = Literal["train", "gate", "held_out"]
SPLITS: tuple[Split, ...] = get_args(Split)

_ROWS, _STATISTICS = "prepared.safetensors", "prepared.json"


@dataclass(frozen=True, slots=True)
class Row:
    input_ids: list[int]
    labels: list[int]
    """`input_ids` where the token is in the loss, `IGNORED` elsewhere."""


@dataclass(frozen=True)
class Prepared:
    """A dataset ready for training, and what became of the rows that are not in it."""

    dataset: str
    splits: dict[Split, list[Row]]
    """The rows of each split in dataset order; no two splits share a row."""
    dropped: dict[str, int]
    """Rows that could not be used, by reason."""
    truncated: int
    """Rows kept, but cut at the maximum length."""
    duplicates: int
    """Rows kept that repeat an earlier one exactly; they are in the same split as it."""
    system_merged: int
    """Rows whose system message was put in front of the first user turn."""

    @property
    def digest(self) -> str:
        """SHA-256 over every token and label of every split."""
        return _digest(self._arrays())

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
            "dropped": self.dropped,
            "truncated": self.truncated,
            "duplicates": self.duplicates,
            "system_merged": self.system_merged,
        }

    def save(self, folder: Path) -> None:
        """Write `prepared.safetensors` and `prepared.json` into `folder`."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file(self._arrays(), folder / _ROWS)
        text = json.dumps(self.statistics(), indent=1)
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
            dropped=statistics["dropped"],
            truncated=statistics["truncated"],
            duplicates=statistics["duplicates"],
            system_merged=statistics["system_merged"],
        )

    def _arrays(self) -> dict[str, NDArray[Any]]:
        import numpy as np

        arrays: dict[str, NDArray[Any]] = {}
        for split in SPLITS:
            rows = self.splits[split]
            ends = np.cumsum([0] + [len(row.input_ids) for row in rows], dtype=np.int64)
            ids = [token for row in rows for token in row.input_ids]
            labels = [label for row in rows for label in row.labels]
            arrays[f"{split}.offsets"] = ends
            arrays[f"{split}.input_ids"] = np.array(ids, dtype=np.int32)
            arrays[f"{split}.labels"] = np.array(labels, dtype=np.int32)
        return arrays


def longest(folder: Path, split: Split) -> int:
    """Tokens of the longest row of a split that `Prepared.save` wrote; no row is read."""
    import numpy as np
    from safetensors import safe_open

    with safe_open(folder / _ROWS, framework="numpy") as saved:
        return int(np.diff(saved.get_tensor(f"{split}.offsets")).max())


def _rows(arrays: dict[str, NDArray[Any]], split: Split) -> list[Row]:
    ids, labels = arrays[f"{split}.input_ids"], arrays[f"{split}.labels"]
    offsets = arrays[f"{split}.offsets"].tolist()
    return [
        Row(ids[start:end].tolist(), labels[start:end].tolist()) for start, end in pairwise(offsets)
    ]


def _digest(arrays: dict[str, NDArray[Any]]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(f"{name}:{len(arrays[name])}:".encode())
        digest.update(arrays[name].tobytes())
    return digest.hexdigest()
