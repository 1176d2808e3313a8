"""What is asked of a chat template before anything is prepared with it.

Each probe renders an exchange or two. What it finds wrong would not stop a training and would spoil
it: answers without an end, a question asked otherwise than it was learned, another text tomorrow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ila_core.data.conversation import Message
from ila_core.data.template import (
    ANSWER,
    EXCHANGE,
    NOW,
    Rewritten,
    Template,
    special_tokens,
    with_date,
)
from ila_core.errors import UserError, listed

if TYPE_CHECKING:
    from jinja2.nodes import Name, Node

_OTHERWISE = (
    "a model would be asked otherwise than it was trained (where the template has a switch, such "
    "as enable_thinking, set it in the model profile's `template_variables:`)"
)
_GIVEN = {"messages", "add_generation_prompt", "tools", "documents"}
"""What transformers gives every template, beside the special tokens' names."""


def check(template: Template) -> None:
    """Refuse a template that would spoil a training; learn how it wants messages and marks answers.

    Raises:
        UserError: what is wrong with it, and what to do.
    """
    check_names(template)
    template.takes_parts = takes_parts(template)
    check_date(template)
    if template.marked:
        template.held, template.lacking = outside_marks(template)
    check_answer(template)


def check_names(template: Template) -> None:
    """Refuse `{{ name }}` of what nobody defines: Jinja would print nothing in its place.

    A name that the template asks about (`{% if name %}`, `is defined`) may be missing.
    """
    from jinja2 import Environment, TemplateSyntaxError, meta, nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    try:
        tree = Environment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
        ).parse(template.source)
    except TemplateSyntaxError as error:
        raise UserError(
            f"the chat template does not render a conversation (line {error.lineno} of it): {error}"
        ) from error
    known = {*_GIVEN, *template.tokenizer.special_tokens_map, *template.variables}
    names = list(tree.find_all(nodes.Name))
    # Set somewhere, or asked about: whoever wrote the template knew that it may be missing.
    conditions = [
        *(node.test for node in tree.find_all(nodes.If)),
        *(node.test for node in tree.find_all(nodes.CondExpr)),
    ]
    defaults = [node for node in tree.find_all(nodes.Filter) if node.name in ("default", "d")]
    guards = (*conditions, *defaults, *tree.find_all(nodes.Test))
    asked = [name for node in guards for name in _names_in(node)]
    meant = {name.name for name in (*asked, *(name for name in names if name.ctx != "load"))}
    unknown = meta.find_undeclared_variables(tree) - known - meant
    printed = {
        (name.lineno, name.name)
        for output in tree.find_all(nodes.Output)
        for name in _names_in(output)
        if name.name in unknown - {"raise_exception", NOW}
    }
    if printed:
        found = [f"{name!r} (line {line})" for line, name in sorted(printed)]
        raise UserError(
            f"the chat template prints {listed(found)}, which nobody defines: there are "
            f"{', '.join(sorted(known))}; mend the name, or give it in `template_variables:`"
        )


def _names_in(node: Node) -> list[Name]:
    from jinja2 import nodes

    return [node] if isinstance(node, nodes.Name) else list(node.find_all(nodes.Name))


def check_date(template: Template) -> None:
    """Refuse a template whose text is another tomorrow."""
    own = template.source
    if NOW not in own:
        return
    texts = set()
    for date in ("3 February 2001", "25 November 2034"):
        template.source = with_date(own, date)
        texts.add(template.text(EXCHANGE))
    template.source = own
    if len(texts) > 1:
        raise UserError(
            "the chat template writes today's date, so the same run would give other rows "
            "tomorrow; fix it in the model profile: `template_variables: {strftime_now: "
            "'1 January 2026'}`, in the form that the template writes"
        )


def takes_parts(template: Template) -> bool:
    """Whether a message's text must be a part in a list, as templates of multimodal models want."""
    try:
        return ANSWER not in template.text(EXCHANGE)
    except UserError:
        return True


def outside_marks(template: Template) -> tuple[str, str]:
    """What the marks of an answer hold too much in front of it, and lack behind it.

    Returns:
        the rest of the text that an answer is asked with, and the end token that stands right after
        the marks; each empty where there is none.
    """
    rendered = template.rendered(EXCHANGE)
    start, end = rendered.spans[-1]
    asked = template.text(EXCHANGE[:1], prompt=True)
    held = asked[start:] if rendered.text.startswith(asked) else ""
    tokens = sorted(special_tokens(template.tokenizer), key=len, reverse=True)
    lacking = (token for token in tokens if token and rendered.text.startswith(token, end))
    return held, next(lacking, "")


def check_answer(template: Template) -> None:
    """Refuse a template whose answers are not learned whole, do not end, or are asked otherwise."""
    try:
        rendered = template.rendered(EXCHANGE)
    except Rewritten:
        asked = template.text(EXCHANGE[:1], prompt=True)
        raise UserError(
            f"the chat template asks with a text that its answers do not follow: it ends with "
            f"{asked[-60:]!r}, and a conversation with an answer reads "
            f"{template.text(EXCHANGE)[-80:]!r}: {_OTHERWISE}"
        ) from None
    (start, end) = rendered.spans[-1]
    learned = rendered.text[start:end]
    if ANSWER not in learned:
        raise UserError(
            "the chat template leaves the assistant's answer out of what is learned: "
            "wrap it, and the end token after it, in {% generation %} ... {% endgeneration %}"
        )
    asked = template.text(EXCHANGE[:1], prompt=True)
    if not rendered.text[:start].startswith(asked):
        raise UserError(
            f"the chat template asks with {asked[-60:]!r}, and answers are learned behind "
            f"{rendered.text[:start][-60:]!r}: {_OTHERWISE}"
        )
    after = learned.partition(ANSWER)[2]
    if not any(token in after for token in special_tokens(template.tokenizer) if token):
        raise UserError(
            f"the chat template ends an answer with {after!r}, in which no special token of the "
            "tokenizer stands, so a model would never learn to stop: put {{ eos_token }} behind "
            "the assistant's answer"
        )


def shows_system(template: Template) -> bool:
    """Whether the template has a place for a system message."""
    probe = "system message probe"
    try:
        text = template.text((Message("system", probe), *EXCHANGE))
    except UserError:
        return False  # how templates refuse a role they do not know
    return probe in text


def rewrites(template: Template) -> bool:
    """Whether earlier turns are rendered otherwise once later ones follow."""
    again = (Message("user", "second question"), Message("assistant", "second answer"))
    try:
        template.rendered((*EXCHANGE, *again))
    except Rewritten:
        return True
    first = template.last_answer(EXCHANGE)
    return not template.text((*EXCHANGE, *again)).startswith(first.text[: first.spans[-1][1]])
