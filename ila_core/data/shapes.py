"""The shapes in which files keep a conversation, each recognised by the names of its fields.

* messages: `messages` (`role`, `content`) or `conversations` (also `from`, `value`, or texts in
  turn);
* one exchange: `instruction`, `prompt`, `question`, `query` or `input`, with `output`, `response`,
  `completion` or `answer`; also `input` or `context`, `system`, `history`;
* preference pairs: `chosen`, with `rejected` and `prompt`, where `answer: chosen` asks for it.

A row that is well formed and is no conversation to learn from is left out, with the reason. A field
that is not read is counted by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ila_core.data.conversation import Conversation, Message, Role
from ila_core.data.rows import SourceRow, shown
from ila_core.errors import UserError, listed

MESSAGES = ("messages", "conversations", "conversation")
PROMPTS = ("instruction", "prompt", "question", "query")
ANSWERS = ("output", "response", "completion", "answer")
CONTEXTS = ("input", "context")

_ROLES: dict[str, Role] = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "model": "assistant", "bot": "assistant",
    "chatgpt": "assistant", "bing": "assistant", "bard": "assistant",
}  # fmt: skip
_TOOL_ROLES = ("tool", "function", "function_call", "observation", "ipython")
_TOOL_FIELDS = ("tool_calls", "function_call")
_LOSS_FLAGS = ("weight", "train", "loss_mask")


class HowRead(Protocol):
    """What a dataset says of its fields, where their names do not."""

    @property
    def columns(self) -> Mapping[Any, str]:
        """Which field holds what: `user`, `assistant`, `system` or `messages` to its name."""

    @property
    def answer(self) -> str | None:
        """`chosen`: rows are preference pairs, of which the chosen answer is learned."""

    @property
    def max_bad(self) -> float:
        """The share of rows that may be unreadable."""


class LeftOut(Exception):
    """A row that is no conversation to learn from, and why."""


@dataclass
class Reading:
    """One row being read: what was made of it, and which fields were not looked at."""

    row: SourceRow
    columns: Mapping[str, str]
    used: set[str] = field(default_factory=set)
    ignored: list[str] = field(default_factory=list)

    def named(self, names: Iterable[str]) -> str | None:
        """The first of `names` that the row has, with something in it."""
        return next((name for name in names if self.row.fields.get(name) is not None), None)

    def take(self, name: str) -> Any:
        self.used.add(name)
        return self.row.value(name)

    def optional(self, *names: str) -> str:
        """The text of the first of these fields that is there; empty where none is."""
        name = self.named(names)
        return "" if name is None else self.row.as_text(name, self.take(name))


def parse(row: SourceRow, config: HowRead) -> tuple[Conversation, list[str]]:
    """Return the row as a conversation, and the fields that were not read.

    Raises:
        LeftOut: it is no conversation to learn from.
        UserError: it cannot be read: no known shape, or a field of another type.
    """
    reading = Reading(row, {str(what): name for what, name in config.columns.items()})
    messages = _messages(reading, config)
    if any(row.fields.get(name) not in (None, [], "", "[]") for name in ("tools", "functions")):
        raise LeftOut("offers tools")
    reading.ignored += [
        name
        for name, value in row.fields.items()
        if name not in reading.used and value is not None and name not in ("tools", "functions")
    ]
    conversation = Conversation(tuple(messages))
    if why := why_unusable(conversation):
        raise LeftOut(why)
    return conversation, reading.ignored


def why_unusable(conversation: Conversation) -> str | None:
    """The reason to leave a conversation out whatever the tokenizer, or `None`."""
    turns = conversation.turns
    if all(turn.role != "user" for turn in turns):
        return "no user turn"
    if any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        return "roles do not alternate"
    if turns[-1].role == "user":
        return "ends on a user turn"
    answers = [turn for turn in turns if turn.role == "assistant"]
    if any(not turn.content.strip() for turn in answers):
        return "empty answer"
    if not any(turn.learned for turn in answers):
        return "no answer in the loss"
    return None


def _messages(reading: Reading, config: HowRead) -> list[Message]:
    columns = reading.columns
    preference = reading.named(["chosen"]) is not None
    if config.answer == "chosen" and not preference:
        raise reading.row.wrong("chosen", "missing, and the dataset's `answer: chosen` asks for it")
    if columns and "messages" not in columns:
        return _exchange(reading, columns.get("user"), columns.get("assistant"))
    listed_in = columns.get("messages") or reading.named(MESSAGES)
    if preference and config.answer == "chosen":
        return _preferred(reading)
    if listed_in is not None:
        return _with_system(reading, _listed(reading, listed_in))
    if preference:
        raise PreferencePairs(
            f"{reading.row.file}: its rows are preference pairs (chosen, rejected); write "
            "`answer: chosen` at the dataset to learn the chosen answers, or name its `columns`"
        )
    prompt = reading.named((*PROMPTS, "input"))
    return _exchange(reading, prompt, reading.named(ANSWERS))


class PreferencePairs(UserError):
    """Rows from which one learns only where the profile says how."""


def _preferred(reading: Reading) -> list[Message]:
    reading.used.add("rejected")
    if isinstance(reading.row.fields["chosen"], str):
        return _exchange(reading, reading.named(PROMPTS), "chosen")
    chosen = _listed(reading, "chosen")
    prompt = reading.named(PROMPTS)
    if chosen and chosen[0].role == "assistant" and prompt is not None:
        chosen = [*_listed_or_text(reading, prompt, "user"), *chosen]
    elif prompt is not None:
        reading.used.add(prompt)  # the list begins with it
    return _with_system(reading, chosen)


def _exchange(reading: Reading, prompt: str | None, answer: str | None) -> list[Message]:
    """An instruction, what it is about (a blank line below it, where given), and the answer."""
    row = reading.row
    if prompt is None or answer is None:
        has = ", ".join(map(str, row.fields)) or "none"
        missing = " and ".join(
            f"no {what} ({', '.join(names)})"
            for what, names, found in (("prompt", PROMPTS, prompt), ("answer", ANSWERS, answer))
            if found is None
        )
        null = [n for n in ANSWERS if n in row.fields and row.fields[n] is None]
        if prompt is not None and null:
            raise LeftOut("no answer")
        raise UserError(
            f"{row.file}, row {row.number}: given the fields {has}: {missing}, and no "
            f"{' or '.join(MESSAGES[:2])}; or name them at the dataset: "
            "`columns: {user: ..., assistant: ...}`"
        )
    if row.value(answer) is None:
        raise LeftOut("no answer")
    others = [n for n in ANSWERS if n != answer and row.fields.get(n) is not None]
    if others and not reading.columns and answer != "chosen":
        raise row.wrong(
            others[0],
            f"there is {answer!r} too; say by `columns: {{user: {prompt}, assistant: ...}}` which "
            "of them is the answer",
        )
    asked = _listed_or_text(reading, prompt, "user")
    context = reading.optional(*(name for name in CONTEXTS if name != prompt))
    if context:
        last = asked[-1]
        asked[-1] = Message(last.role, "\n\n".join(filter(None, (last.content, context))))
    answered = _listed_or_text(reading, answer, "assistant")
    return _with_system(reading, [*_history(reading), *asked, *answered])


def _with_system(reading: Reading, messages: list[Message]) -> list[Message]:
    """The system text of a field of its own in front, where the messages have none."""
    if messages and messages[0].role == "system":
        return messages
    name = reading.columns.get("system") or reading.named(["system", "system_prompt"])
    text = reading.optional(name) if name else ""
    return [Message("system", text), *messages] if text else messages


def _history(reading: Reading) -> Iterable[Message]:
    """Earlier exchanges, as Alpaca's `history`: a list of pairs."""
    if reading.named(["history"]) is None:
        return
    row = reading.row
    for i, pair in enumerate(_items(row, "history", reading.take("history"))):
        if not isinstance(pair, list) or len(pair) != 2:
            raise row.wrong(f"history.{i}", f"given {shown(pair)}; allowed is a pair of texts")
        yield Message("user", row.as_text(f"history.{i}.0", pair[0]))
        yield Message("assistant", row.as_text(f"history.{i}.1", pair[1]))


def _listed_or_text(reading: Reading, name: str, role: Role) -> list[Message]:
    if isinstance(reading.row.value(name), list):
        return _listed(reading, name)
    return [Message(role, reading.row.as_text(name, reading.take(name)))]


def _listed(reading: Reading, name: str) -> list[Message]:
    items = _items(reading.row, name, reading.take(name))
    if items and all(isinstance(item, str) for item in items):  # LIMA's turns
        texts = [reading.row.as_text(f"{name}.{i}", item) for i, item in enumerate(items)]
        return [Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts)]
    return [_message(reading, f"{name}.{i}", item) for i, item in enumerate(items)]


def _items(row: SourceRow, name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise row.wrong(name, f"given {shown(value)}; allowed is a list")
    return value


def _message(reading: Reading, where: str, item: Any) -> Message:
    row = reading.row
    if not isinstance(item, dict):
        raise row.wrong(where, f"given {shown(item)}; allowed is an object with role and content")
    names = (
        ("from", "value") if item.get("role") is None and "from" in item else ("role", "content")
    )
    if names[0] not in item:
        raise row.wrong(where, f"given {shown(item)}; allowed is an object with role and content")
    given, content = item[names[0]], item.get(names[1])
    if given in _TOOL_ROLES or any(item.get(name) for name in _TOOL_FIELDS):
        raise LeftOut("calls tools")
    if not isinstance(given, str) or given not in _ROLES:
        raise row.wrong(
            f"{where}.{names[0]}", f"given {shown(given)}; allowed: {listed(list(_ROLES), 20)}"
        )
    role = _ROLES[given]
    text = _content(row, f"{where}.{names[1]}", content)
    return Message(role, text, learned=_learned(reading, where, item, role, names))


def _content(row: SourceRow, where: str, content: Any) -> str:
    """The text of a message, whose parts are joined."""
    if content is None:
        raise LeftOut("a message without text")
    if not isinstance(content, list):
        return row.as_text(where, content)
    texts = []
    for i, part in enumerate(content):
        if isinstance(part, str):
            texts.append(row.as_text(f"{where}.{i}", part))
        elif isinstance(part, dict) and isinstance(part.get("text"), str):
            texts.append(row.as_text(f"{where}.{i}.text", part["text"]))
        elif isinstance(part, dict) and part.get("type") not in (None, "text"):
            raise LeftOut(f"a part that is no text ({part['type']})")
        else:
            raise row.wrong(f"{where}.{i}", f"given {shown(part)}; allowed is a part with a text")
    return "".join(texts)


def _learned(
    reading: Reading, where: str, item: Mapping[str, Any], role: Role, names: tuple[str, str]
) -> bool:
    """Whether a message is in the loss, by its own flag; the other fields are counted."""
    learned = True
    for name, value in item.items():
        if name in names or value is None or value in ([], {}, ""):
            continue
        if name not in _LOSS_FLAGS:
            reading.ignored.append(f"{where.split('.')[0]}.{name}")
        elif value not in (0, 1):
            raise reading.row.wrong(f"{where}.{name}", f"given {shown(value)}; allowed: 0, 1")
        elif role == "assistant":
            learned = learned and bool(value)
        elif value:  # only answers are learned
            reading.ignored.append(f"{where.split('.')[0]}.{name} of {role}")
    return learned
