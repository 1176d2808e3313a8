"""Alignment datasets: conversations from the hub or from files, with the same result.

    >>> lima = Dataset(DatasetConfig(name="lima", source="lima/train.jsonl"), None)
    >>> identity = lima.read().digest()

Nothing here imports torch or transformers: keys are computed from these conversations before
anything runs.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any, Self

from ila_core.config import DatasetConfig
from ila_core.data.conversation import Conversation, content_hash
from ila_core.data.rows import rows_and_problems
from ila_core.data.shapes import LeftOut, PreferencePairs, parse
from ila_core.data.sources import files_of
from ila_core.errors import UserError, listed
from ila_core.keys import canonical

LEAST_BAD_ROWS = 10
"""So many rows that cannot be read end nothing, however short the file is."""


class Dataset:
    """The conversations of a dataset that can be learned from, read anew whenever iterated.

    Args:
        config: where its rows are, and how they are read.
        revision: the hub commit; of no effect on local files.

    Raises:
        UserError: while iterating: nothing is there, too many rows cannot be read, or none is left.
    """

    def __init__(self, config: DatasetConfig, revision: str | None) -> None:
        self._config, self._revision = config, revision
        self._reset()

    def _reset(self) -> None:
        self.given = 0
        """Rows that were read or could not be."""
        self.left_out: Counter[str] = Counter()
        """Rows that are no conversation to learn from, by reason."""
        self.ignored: Counter[str] = Counter()
        """Rows by the name of a field that was not read."""
        self.unreadable: list[str] = []
        """What is wrong with each row that cannot be read."""
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[Conversation]:
        self._reset()
        files = files_of(self._config, self._revision)
        for file in files:
            for row in rows_and_problems(file):
                self.given += 1
                try:
                    if isinstance(row, UserError):
                        raise row
                    conversation, ignored = parse(row, self._config)
                except LeftOut as why:
                    self.left_out[str(why)] += 1
                except PreferencePairs:
                    raise
                except UserError as error:
                    self.unreadable.append(str(error))
                else:
                    self.ignored.update(set(ignored))
                    self._digest.update(content_hash(conversation).encode())
                    yield conversation
        self._check(listed([str(file) for file in files], 3))

    def digest(self) -> str:
        """The identity of what was read: conversations in order, and the counts of the rest."""
        whole = self._digest.copy()
        whole.update(canonical(self.counts()).encode())
        return whole.hexdigest()

    @property
    def conversations(self) -> int:
        """How many were read."""
        return self.given - len(self.unreadable) - self.left_out.total()

    def read(self) -> Self:
        """Read every row for what `digest` and `counts` say of them."""
        deque(self, maxlen=0)
        return self

    def counts(self) -> dict[str, Any]:
        """What was read and what was not."""
        return {
            "given": self.given,
            "dropped": dict(sorted(self.left_out.items())),
            "ignored": dict(sorted(self.ignored.items())),
            "unreadable": len(self.unreadable),
        }

    def _check(self, files: str) -> None:
        name, bad = self._config.name, len(self.unreadable)
        first = f"; the first: {self.unreadable[0]}" if bad else ""
        if not self.conversations:
            reasons = ", ".join(f"{n} {why}" for why, n in sorted(self.left_out.items()))
            raise UserError(
                f"dataset {name}: no row of {files} can be used: {self.given} rows, {bad} cannot "
                f"be read, left out: {reasons or 'none'}{first}"
            )
        most = max(LEAST_BAD_ROWS, self._config.max_bad * self.given)
        if bad > most:
            raise UserError(
                f"dataset {name}: {bad} of {self.given} rows of {files} cannot be read; allowed "
                f"are {most:.0f} (max_bad: {self._config.max_bad:g}){first}"
            )
