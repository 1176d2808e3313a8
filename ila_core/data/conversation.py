"""A conversation, and the identity of one and of many.

>>> hello = Conversation((Message("user", "Hi"), Message("assistant", "Hello!")))
>>> content_hash(hello) == content_hash(Conversation(hello.messages))
True
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Role = Literal["system", "user", "assistant"]
ROLES: tuple[Role, ...] = get_args(Role)


@dataclass(frozen=True, slots=True)
class Message:
    role: Role
    content: str


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


def content_hash(conversation: Conversation) -> str:
    """SHA-256 over roles and texts: equal for exact duplicates only."""
    # Not `fingerprint.digest_of`: the same form, but that walks values, and keys wait for this.
    pairs = [[message.role, message.content] for message in conversation.messages]
    return hashlib.sha256(json.dumps(pairs, separators=(",", ":")).encode()).hexdigest()


def content_digest(conversations: Iterable[Conversation]) -> str:
    """The identity of a dataset: every conversation, in order."""
    digest = hashlib.sha256()
    for conversation in conversations:
        digest.update(content_hash(conversation).encode())
    return digest.hexdigest()
