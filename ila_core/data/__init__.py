"""Alignment datasets: conversations from the hub or from files, with the same result.

    >>> lima = Dataset(DatasetConfig(name="lima", source="lima/train.jsonl"), None)
    >>> identity = lima.read().digest()

Nothing here imports torch or transformers: keys are computed from these conversations before
anything runs.
"""

import hashlib
from collections import deque
from collections.abc import Iterator
from typing import Self

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

    @property
    def conversations(self) -> int:
        """How many were read."""
        return self.given - len(self.unreadable) - self.left_out.total()

    def read(self) -> Self:
        """Read every row for what `digest` and `counts` say of them."""
        deque(self, maxlen=0)
        return self
