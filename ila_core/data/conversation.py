"""A conversation, and the identity of one and of many.

>>> hello = Conversation((Message("user", "Hi"), Message("assistant", "Hello!")))
>>> content_hash(hello) == content_hash(Conversation(hello.messages))
True
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str
    learned: bool = True
    """Whether an assistant's message is in the loss; a file can say that one is not."""


@dataclass(frozen=True, slots=True)
class Conversation:
    messages: tuple[Message, ...]

    @property
    def system(self) -> str | None:
        """The system message that leads the conversation, if one does."""
        first = self.messages[0] if self.messages else None
        return first.content if first is not None and first.role == "system" else None

    @property
    def turns(self) -> tuple[Message, ...]:
        """The messages after the leading system message."""
        return self.messages if self.system is None else self.messages[1:]

    @property
    def prompt(self) -> str:
        """The first user message, by which a conversation is put into a split."""
        return next(message.content for message in self.messages if message.role == "user")


def content_hash(conversation: Conversation) -> str:
    """SHA-256 over roles, texts and what is in the loss: equal for exact duplicates only."""
    # The form of `ila_core.keys.digest_of`, which walks values and is slower: plans wait for this.
    parts = [
        [m.role, m.content] if m.learned else [m.role, m.content, False]
        for m in conversation.messages
    ]
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
