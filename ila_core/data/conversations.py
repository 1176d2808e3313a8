"""The conversations of data files that can be learned from, and a count of all other rows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ila_core.data.conversation import Conversation
from ila_core.data.rows import rows_and_problems
from ila_core.data.shapes import HowRead, LeftOut, PreferencePairs, parse
from ila_core.errors import UserError, listed

LEAST_BAD_ROWS = 10
"""So many rows that cannot be read end nothing, however short the file is."""


class Conversations:
    """The conversations of files, read anew whenever iterated.

    Args:
        name: what messages call them.
        files: in order.
        how: which field holds what, where its name does not say.

    Raises:
        UserError: while iterating: too many rows cannot be read, or none is left.
    """

    def __init__(self, name: str, files: Sequence[Path], how: HowRead) -> None:
        self._name, self._files, self._how = name, files, how
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

    def __iter__(self) -> Iterator[Conversation]:
        self._reset()
        for file in self._files:
            for row in rows_and_problems(file):
                self.given += 1
                try:
                    if isinstance(row, UserError):
                        raise row
                    conversation, ignored = parse(row, self._how)
                except LeftOut as why:
                    self.left_out[str(why)] += 1
                except PreferencePairs:
                    raise
                except UserError as error:
                    self.unreadable.append(str(error))
                else:
                    self.ignored.update(set(ignored))
                    yield conversation
        self._check(listed([str(file) for file in self._files], 3))

    @property
    def usable(self) -> int:
        """How many conversations were read."""
        return self.given - len(self.unreadable) - self.left_out.total()

    def counts(self) -> dict[str, Any]:
        """What was read and what was not."""
        return {
            "given": self.given,
            "dropped": dict(sorted(self.left_out.items())),
            "ignored": dict(sorted(self.ignored.items())),
            "unreadable": len(self.unreadable),
        }

    def _check(self, files: str) -> None:
        bad = len(self.unreadable)
        first = f"; the first: {self.unreadable[0]}" if bad else ""
        if not self.usable:
            reasons = ", ".join(f"{n} {why}" for why, n in sorted(self.left_out.items()))
            raise UserError(
                f"dataset {self._name}: no row of {files} can be used: {self.given} rows, {bad} "
                f"cannot be read, left out: {reasons or 'none'}{first}"
            )
        most = max(LEAST_BAD_ROWS, self._how.max_bad * self.given)
        if bad > most:
            raise UserError(
                f"dataset {self._name}: {bad} of {self.given} rows of {files} cannot be read; "
                f"allowed are {most:.0f} (max_bad: {self._how.max_bad:g}){first}"
            )
