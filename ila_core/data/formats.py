"""The shapes in which several datasets keep a conversation."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

from ila_core.data.conversation import ROLES, Conversation, Message, Role
from ila_core.data.rows import SourceRow, shown


@dataclass(frozen=True)
class Dataset:
    """Where a dataset lies on the hub, and how one of its rows becomes a conversation."""

    parse: Callable[[SourceRow], Conversation]
    repo: str | None
    """Hub id; `None`: only ever read from `path`."""
    files: str = ""
    """Glob of its training files inside the repository."""
    licence: str | None = None
    """The licence on its hub page; `None`: the file's owner knows."""


def from_messages(row: SourceRow) -> Conversation:
    """`{"messages": [{"role": ..., "content": ...}, ...]}`."""
    return Conversation(
        tuple(_message(row, i, item) for i, item in enumerate(row.as_list("messages")))
    )


def _message(row: SourceRow, index: int, item: object) -> Message:
    field = f"messages.{index}"
    if not isinstance(item, dict) or not {"role", "content"} <= item.keys():
        raise row.wrong(field, f"given {shown(item)}; allowed is an object with role and content")
    for role in ROLES:
        if item["role"] == role:
            return Message(role, row.as_text(f"{field}.content", item["content"]))
    raise row.wrong(f"{field}.role", f"given {shown(item['role'])}; allowed: {', '.join(ROLES)}")


def from_turns(row: SourceRow, field: str) -> Conversation:
    """A list of texts that alternate user, assistant."""
    texts = [row.as_text(f"{field}.{i}", item) for i, item in enumerate(row.as_list(field))]
    roles: cycle[Role] = cycle(("user", "assistant"))
    return Conversation(
        tuple(Message(role, text) for role, text in zip(roles, texts, strict=False))
    )


def from_instruction(row: SourceRow, *, context: str, answer: str) -> Conversation:
    """An instruction, what it is about (a blank line below it, where given), and the answer."""
    parts = [row.text("instruction"), row.optional_text(context)]
    return one_exchange("\n\n".join(filter(None, parts)), row.text(answer))


def one_exchange(prompt: str, answer: str) -> Conversation:
    return Conversation((Message("user", prompt), Message("assistant", answer)))
