"""Alignment datasets: conversations from the hub or from files, with the same result.

    >>> lima = Dataset(DatasetConfig(name="lima", source="lima/train.jsonl"), None)
    >>> identity = lima.read().digest()

Nothing here imports torch or transformers: keys are computed from these conversations before
anything runs.
"""

import hashlib
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from typing import Any, Self

from ila_core.config import DatasetConfig
from ila_core.data.conversation import Conversation, content_hash
from ila_core.data.conversations import Conversations
from ila_core.data.sources import files_of
from ila_core.keys import canonical


class Dataset(Conversations):
    """The conversations of a dataset that can be learned from, read anew whenever iterated.

    Args:
        config: where its rows are, and how they are read.
        revision: the hub commit; of no effect on local files.

    Raises:
        UserError: while iterating: nothing is there, too many rows cannot be read, or none is left.
    """

    def __init__(self, config: DatasetConfig, revision: str | None) -> None:
        super().__init__(config.name, (), config)
        self._config, self._revision = config, revision
        self._digest = hashlib.sha256()

    def __iter__(self) -> Iterator[Conversation]:
        self._digest = hashlib.sha256()
        self._files = files_of(self._config, self._revision)
        for conversation in super().__iter__():
            self._digest.update(content_hash(conversation).encode())
            yield conversation

    def digest(self) -> str:
        """The identity of what was read: conversations in order, and the counts of the rest."""
        whole = self._digest.copy()
        whole.update(canonical(self.counts()).encode())
        return whole.hexdigest()

    def read(self) -> Self:
        """Read every row for what `digest` and `counts` say of them."""
        deque(self, maxlen=0)
        return self


class Mixture:
    """Several datasets as one, one after the other; training shuffles them."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        self._parts = parts

    def __iter__(self) -> Iterator[Conversation]:
        for part in self._parts:
            yield from part

    def __add__(self, more: Self) -> Self:
        return type(self)([*self._parts, *more._parts])

    def digests(self) -> list[str]:
        """The identity of each dataset, once it was read."""
        return [part.digest() for part in self._parts]

    @property
    def unreadable(self) -> list[str]:
        """What is wrong with each row that cannot be read."""
        return [problem for part in self._parts for problem in part.unreadable]

    def counts(self) -> dict[str, Any]:
        """What was read and what was not, of all together."""
        whole: dict[str, Any] = {}
        for part in self._parts:
            for name, found in part.counts().items():
                if isinstance(found, dict):
                    found = dict(sorted((Counter(whole.get(name, {})) + Counter(found)).items()))
                    whole[name] = found
                else:
                    whole[name] = whole.get(name, 0) + found
        return whole
