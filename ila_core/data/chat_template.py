"""A conversation as the text a model reads, and which stretches of that text it learns to write.

Both ways of finding those stretches work on characters, so a row is tokenized once, as a whole,
exactly as the model will meet it:

* a template with `{% generation %}` marks them itself;
* any other is rendered turn by turn, and what each assistant turn adds is its stretch.
"""

import re
from dataclasses import dataclass
from typing import Any

from ila_core.data.conversation import Conversation, Message
from ila_core.errors import UserError

Span = tuple[int, int]

_ANSWER = "answer"
_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True, slots=True)
class Rendered:
    text: str
    spans: tuple[Span, ...]
    """Characters in the loss, from-to: every assistant turn with its end token."""


class Renderer:
    """A chat template with its tokenizer's special tokens.

    Args:
        tokenizer: whose special tokens the template may name, and whose own template is used when
            `template` is `None`.
        template: the model profile's.

    Raises:
        UserError: no template at all, or one that does not render a plain exchange.
    """

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        self._tokenizer = tokenizer
        self._template = template or _own_template(tokenizer)
        if "strftime_now" in self._template:
            raise UserError(
                "the chat template writes today's date, so the same run would give other rows "
                "tomorrow; put a copy with a fixed date into the model profile's `template:`"
            )
        self._marked = _MARKED.search(self._template) is not None
        exchange = (Message("user", "question"), Message("assistant", "answer"))
        self._check(exchange)
        self.takes_system = self._shows_system(exchange)
        """Whether the template has a place for a system message."""

    def render(self, conversation: Conversation) -> Rendered:
        """The text and its loss spans.

        A system message that the template has no place for goes in front of the first user turn.
        """
        kept = conversation if self.takes_system else merge_system(conversation)
        return self._rendered(kept.messages)

    def prompt(self, conversation: Conversation) -> str:
        """What the model reads before it answers `conversation`, which ends on a user turn.

        It is the text in front of the stretch that an answer would be, so a model is asked in
        exactly the form in which it was trained, whether or not the template has a generation
        prompt.
        """
        assert conversation.messages[-1].role == "user"
        asked = Conversation((*conversation.messages, Message("assistant", _ANSWER)))
        rendered = self.render(asked)
        return rendered.text[: rendered.spans[-1][0]]

    @property
    def end_of_answer(self) -> str:
        """What an answer ends with: the template's end token, or nothing."""
        rendered = self.render(
            Conversation((Message("user", "question"), Message("assistant", _ANSWER)))
        )
        start, end = rendered.spans[-1]
        return rendered.text[start:end].partition(_ANSWER)[2]

    def _rendered(self, messages: tuple[Message, ...]) -> Rendered:
        from jinja2 import TemplateError

        try:
            if not self._marked:
                return self._turn_by_turn(messages)
            text, spans = self._text(messages, mark=True)
        except (TemplateError, TypeError) as error:
            raise UserError(f"the chat template does not render a conversation: {error}") from error
        return Rendered(text, tuple((start, self._with_end(text, end)) for start, end in spans))

    def _with_end(self, text: str, end: int) -> int:
        """`end`, moved behind the end token where a template marks an answer without it."""
        token = self._tokenizer.eos_token
        left_out = token and not text.endswith(token, 0, end) and text.startswith(token, end)
        return end + len(token) if left_out else end

    def _turn_by_turn(self, messages: tuple[Message, ...]) -> Rendered:
        text, _ = self._text(messages)
        spans: list[Span] = []
        for i, message in enumerate(messages):
            if message.role == "assistant":
                before, _ = self._text(messages[:i], prompt=True)
                upto, _ = self._text(messages[: i + 1])
                if not (text.startswith(upto) and upto.startswith(before)):
                    raise UserError(
                        "the chat template renders earlier turns differently once later ones "
                        "follow, so it does not tell which tokens the assistant wrote; put a "
                        "template that wraps them in {% generation %} ... {% endgeneration %} "
                        "into the model profile"
                    )
                spans.append((len(before), self._end(upto)))
        return Rendered(text, tuple(spans))

    def _end(self, upto: str) -> int:
        """The end of a turn, without the white space that a template puts after its end token."""
        stripped = upto.rstrip()
        closed = stripped.endswith(tuple(self._tokenizer.all_special_tokens))
        return len(stripped) if closed else len(upto)

    def _check(self, exchange: tuple[Message, ...]) -> None:
        rendered = self._rendered(exchange)
        if not any("answer" in rendered.text[start:end] for start, end in rendered.spans):
            raise UserError(
                "the chat template leaves the assistant's answer out of what is learned: "
                "wrap it, and the end token after it, in {% generation %} ... {% endgeneration %}"
            )

    def _shows_system(self, exchange: tuple[Message, ...]) -> bool:
        from jinja2 import TemplateError

        probe = "system message probe"
        try:
            text, _ = self._text((Message("system", probe), *exchange))
        except TemplateError:
            return False  # how templates refuse a role they do not know
        return probe in text

    def _text(
        self, messages: tuple[Message, ...], *, prompt: bool = False, mark: bool = False
    ) -> tuple[str, list[list[int]]]:
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            conversations=[[{"role": m.role, "content": m.content} for m in messages]],
            chat_template=self._template,
            add_generation_prompt=prompt,
            return_assistant_tokens_mask=mark,
            **self._tokenizer.special_tokens_map,
        )
        return texts[0], spans[0] if mark else []


def merge_system(conversation: Conversation) -> Conversation:
    """`conversation` with its leading system message in front of the first user turn instead."""
    if conversation.system is None:
        return conversation
    first, *rest = conversation.turns
    opening = Message(first.role, f"{conversation.system}\n\n{first.content}")
    return Conversation((opening, *rest))


def _own_template(tokenizer: Any) -> str:
    try:
        template: str = tokenizer.get_chat_template()
    except ValueError as error:
        raise UserError(
            "there is no chat template: the tokenizer has none, and the model profile's "
            "`template:` is null; give one there"
        ) from error
    return template
