"""Conversations as rows of tokens, each with the labels of what is learned of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ila_core.data.chat_template import Renderer
from ila_core.data.conversation import Conversation
from ila_core.data.loss_mask import labels
from ila_core.data.template import Rendered
from ila_core.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Rows tokenized at once: enough for the tokenizer's threads, few enough that the character
# offsets, which take far more memory than the tokens, stay small.
_CHUNK = 512


class TokenRow(NamedTuple):
    """A row, whole."""

    input_ids: NDArray[np.int32]
    labels: NDArray[np.int32]

    def cut(self, length: int) -> TokenRow:
        """The row's first `length` tokens."""
        return TokenRow(self.input_ids[:length], self.labels[:length])


def token_rows(
    conversations: Iterable[Conversation], renderer: Renderer
) -> Iterator[tuple[Conversation, list[TokenRow] | UserError]]:
    """Yield each conversation with its rows, or with why the template does not render it.

    Raises:
        UserError: a slow tokenizer.
    """
    if not renderer.tokenizer.is_fast:
        raise UserError(
            "the base model's tokenizer is a slow one, which does not say where a token stands in "
            "the text; a tokenizer.json is needed"
        )
    stream = iter(conversations)
    while some := list(islice(stream, _CHUNK)):
        rendered = [_rendered(renderer, conversation) for conversation in some]
        texts = [r.text for rows in rendered if not isinstance(rows, UserError) for r in rows]
        tokens = renderer.tokenizer(
            texts or [""],
            add_special_tokens=False,  # the template writes them
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        columns = zip(tokens["input_ids"], tokens["offset_mapping"], strict=True)
        for conversation, rows in zip(some, rendered, strict=True):
            if isinstance(rows, UserError):
                yield conversation, rows
                continue
            whole = []
            for r in rows:
                given, offsets = next(columns)
                ids = np.array(given, dtype=np.int32)
                whole.append(TokenRow(ids, labels(ids, offsets, r.spans)))
            yield conversation, whole


def _rendered(renderer: Renderer, conversation: Conversation) -> tuple[Rendered, ...] | UserError:
    try:
        return renderer.render(conversation)
    except UserError as error:  # of this conversation: the template itself has been tried
        return error
