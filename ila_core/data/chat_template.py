"""Conversations as rows of text, and which stretches of them a model learns to write.

A template that writes earlier turns anew once later ones follow (Qwen3 drops their thinking)
never shows a model the text of a whole conversation: each answer becomes a row of its own, behind
what the model would really have read.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ila_core.data import template_probes as probes
from ila_core.data.conversation import Conversation, Message
from ila_core.data.template import ANSWER, EXCHANGE, Rendered, Rewritten, Template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Renderer:
    """A chat template that has been tried, and what the trial found.

    Args:
        tokenizer, template, variables: as `Template` has them.

    Raises:
        UserError: no template at all, or one that fails a probe (`ila_core.data.template_probes`).
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        template: str | None,
        variables: Mapping[str, object] | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self._template = Template(tokenizer, template, variables)
        probes.check(self._template)
        self.takes_system = probes.shows_system(self._template)
        """Whether the template has a place for a system message."""
        self._rewrites = probes.rewrites(self._template)

    def render(self, conversation: Conversation) -> tuple[Rendered, ...]:
        """Return the rows of a conversation, each a text and its loss spans.

        A system message that the template has no place for goes in front of the first user turn.
        """
        shown = conversation if self.takes_system else merge_system(conversation)
        answers = [i for i, m in enumerate(shown.messages) if m.role == "assistant"]
        learned = [i for i in answers if shown.messages[i].learned]
        if not self._rewrites or len(answers) == 1:
            try:
                whole = self._template.rendered(shown.messages)
            except Rewritten:
                pass
            else:
                spans = zip(answers, whole.spans, strict=True)
                return (Rendered(whole.text, tuple(span for i, span in spans if i in learned)),)
        return tuple(self._template.last_answer(shown.messages[: i + 1]) for i in learned)

    def prompt(self, conversation: Conversation) -> str:
        """What the model reads before it answers `conversation`, which ends on a user turn.

        It is the text in front of the stretch that an answer would be, so a model is asked in
        exactly the form in which it was trained, whether or not the template has a generation
        prompt.
        """
        assert conversation.messages[-1].role == "user"
        asked = Conversation((*conversation.messages, Message("assistant", ANSWER)))
        rendered = self.render(asked)[-1]
        return rendered.text[: rendered.spans[-1][0]]

    @property
    def stored_template(self) -> str:
        """The template as a tokenizer keeps it, told all that this one is told."""
        return self._template.stored

    @property
    def end_of_answer(self) -> str:
        """What an answer ends with: the template's end token, or nothing."""
        rendered = self._template.rendered(EXCHANGE)
        start, end = rendered.spans[-1]
        return rendered.text[start:end].partition(ANSWER)[2]


def merge_system(conversation: Conversation) -> Conversation:
    """`conversation` with its leading system message in front of the first user turn instead."""
    if conversation.system is None:
        return conversation
    first, *rest = conversation.turns
    opening = Message(first.role, f"{conversation.system}\n\n{first.content}")
    return Conversation((opening, *rest))
