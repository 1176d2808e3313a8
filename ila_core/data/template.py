"""A chat template with its tokenizer: a conversation as text, and where its answers stand in it.

Both ways of finding the answers work on characters, so a row is tokenized once, as a whole, exactly
as the model will meet it:

* a template with `{% generation %}` marks them itself;
* any other is rendered turn by turn, and what each assistant turn adds is its answer.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ila_core.data.conversation import Message
from ila_core.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]

ANSWER = "answer"
EXCHANGE = (Message("user", "question"), Message("assistant", ANSWER))
"""What a template is tried on."""
NOW = "strftime_now"
"""The function with which a template asks for the date."""
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Rewritten(UserError):
    """The template renders earlier turns differently once later ones follow."""

    def __init__(self) -> None:
        super().__init__("the chat template renders earlier turns differently once others follow")


@dataclass(frozen=True, slots=True)
class Rendered:
    text: str
    spans: tuple[Span, ...]
    """Characters in the loss, from-to: every assistant turn with its end token."""


class Template:
    """A chat template with its tokenizer's special tokens.

    Args:
        tokenizer: whose special tokens the template may name, and whose own template is used when
            `source` is `None`.
        source: the model profile's.
        variables: what the template is told besides, such as a date (`template_variables`).

    Raises:
        UserError: no template at all.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        source: str | None,
        variables: Mapping[str, object] | None = None,
    ) -> None:
        self.tokenizer, self.variables = tokenizer, dict(variables or {})
        self.source = source or _own_template(tokenizer)
        if (date := self.variables.pop(NOW, None)) is not None:
            self.source = with_date(self.source, str(date))
        self.marked = _MARKED.search(self.source) is not None
        self.takes_parts = False
        """Whether a message's text must be a part in a list."""
        self.held, self.lacking = "", ""
        """What the marks of an answer hold too much in front of it, and lack behind it."""

    @property
    def stored(self) -> str:
        """The source with the variables set in it."""
        told = (f"{{% set {name} = {json.dumps(v)} %}}" for name, v in self.variables.items())
        return "".join(told) + self.source

    def last_answer(self, messages: Sequence[Message]) -> Rendered:
        """Messages that end on an answer, which alone is learned."""
        if self.marked:
            whole = self.rendered(messages)
            return Rendered(whole.text, whole.spans[-1:])
        text = self.text(messages)
        return Rendered(text, (self._added(text, messages),))

    def rendered(self, messages: Sequence[Message]) -> Rendered:
        """All messages as one text, every answer learned.

        Raises:
            Rewritten: what was learned of an earlier answer is not what the whole text holds.
            UserError: the template does not render them.
        """
        if not self.marked:
            text = self.text(messages)
            spans = []
            for i, message in enumerate(messages):
                if message.role == "assistant":
                    upto = text if i + 1 == len(messages) else self.text(messages[: i + 1])
                    if not text.startswith(upto):
                        raise Rewritten
                    spans.append(self._added(upto, messages[: i + 1]))
            return Rendered(text, tuple(spans))
        text, marks = self._render(messages, mark=True)
        return Rendered(text, self._of_answers(text, marks, messages))

    def _of_answers(
        self, text: str, marks: Sequence[Sequence[int]], messages: Sequence[Message]
    ) -> tuple[Span, ...]:
        """The marked stretches, one per answer: those that touch are one."""
        joined: list[Span] = []
        for start, end in marks:
            if joined and joined[-1][1] == start:
                joined[-1] = (joined[-1][0], end)
            elif end > start:
                joined.append((start, end))
        answers = [message.content for message in messages if message.role == "assistant"]
        if len(joined) != len(answers):
            raise UserError(
                f"the chat template marks {len(joined)} stretches in a conversation of "
                f"{len(answers)} answers: wrap each answer, with the end token after it, in one "
                "{% generation %} ... {% endgeneration %}"
            )
        spans = []
        for (start, end), answer in zip(joined, answers, strict=True):
            start += len(self.held) if text.startswith(self.held, start) else 0
            end += len(self.lacking) if text.startswith(self.lacking, end) else 0
            spans.append((_behind_lead(text, start, end, answer), end))
        return tuple(spans)

    def _added(self, upto: str, messages: Sequence[Message]) -> Span:
        """What the last answer adds to the text in front of it, which the model is asked with."""
        before = self.text(messages[:-1], prompt=True)
        if not upto.startswith(before):
            raise Rewritten
        stripped = upto.rstrip()
        closed = stripped.endswith(tuple(special_tokens(self.tokenizer)))
        # Without the white space that a template puts after its end token.
        end = len(stripped) if closed else len(upto)
        return _behind_lead(upto, len(before), end, messages[-1].content), end

    def text(self, messages: Sequence[Message], *, prompt: bool = False) -> str:
        """Render messages; `prompt` adds what the template asks an answer with."""
        return self._render(messages, prompt=prompt)[0]

    def _render(
        self, messages: Sequence[Message], *, prompt: bool = False, mark: bool = False
    ) -> tuple[str, list[list[int]]]:
        from jinja2 import TemplateError
        from transformers.utils.chat_template_utils import render_jinja_template

        turns = [{"role": m.role, "content": self._content(m.content)} for m in messages]
        try:
            texts, spans = render_jinja_template(
                conversations=[turns],
                chat_template=self.source,
                add_generation_prompt=prompt,
                return_assistant_tokens_mask=mark,
                **{**self.tokenizer.special_tokens_map, **self.variables},
            )
        except (TemplateError, TypeError) as error:
            line = getattr(error, "lineno", None)
            where = f" (line {line} of it)" if line else ""
            raise UserError(
                f"the chat template does not render a conversation{where}: {error}"
            ) from error
        return texts[0], spans[0] if mark else []

    def _content(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self.takes_parts else text


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Every token that text is not made of.

    Not `all_special_tokens` alone: a base model's tokenizer has the end tokens of chat
    (`<|eot_id|>`) among its added tokens, without a name.
    """
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)}


def with_date(template: str, date: str) -> str:
    """The template with a date in place of today's: a macro stands in front of the function."""
    text = date.replace("\\", "\\\\").replace("'", "\\'")
    return f"{{%- macro {NOW}(format) %}}{{{{ '{text}' }}}}{{% endmacro -%}}{template}"


def _behind_lead(text: str, start: int, end: int, answer: str) -> int:
    """Where the answer begins, behind what the template writes in front of it.

    An empty thinking block or a header is none of the model's own, and carries no loss.
    """
    found = text.find(answer, start, end)
    if found < 0:
        found = text.find(answer.strip(), start, end)
    return found if found > start and text[start:found].strip() else start


def _own_template(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            "there is no chat template: the tokenizer has none, and the model profile's "
            "`template:` is null; give one there"
        ) from error
    return template
