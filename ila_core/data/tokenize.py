"""Conversations to token rows: which tokens are learned, what is dropped, which split it is in.

>>> prepared = prepare(conversations, Renderer(tokenizer, None), data, dataset="lima")
>>> prepared.counts.dropped
{'ends on a user turn': 1}
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
from tqdm import tqdm

from ila_core.config import Preparation
from ila_core.data import Mixture
from ila_core.data.chat_template import Renderer
from ila_core.data.conversation import Conversation, content_hash
from ila_core.data.counts import Counts, said_of
from ila_core.data.loss_mask import ends_after, learned_tokens
from ila_core.data.prepared import SPLITS, Prepared, Row, Rows, Split
from ila_core.data.token_rows import TokenRow, token_rows
from ila_core.errors import UserError, first_line

log = logging.getLogger("ila")

_SHOWN = 3
"""Rows that cannot be read, which are named; all are counted."""


def prepare(
    conversations: Mixture | Iterable[Conversation],
    renderer: Renderer,
    data: Preparation,
    *,
    dataset: str,
    validation: Mixture | None = None,
    progress: bool = False,
) -> Prepared:
    """Tokenize, mark the loss, drop what cannot be used, and split by prompt.

    Args:
        conversations: a dataset, or any that can be learned from.
        renderer: the chat template, with a fast tokenizer (`ila_core.models.loading`).
        data: maximum length and splits.
        dataset: the dataset's name, for the statistics and for error messages.
        validation: conversations that are held out, in place of a share of the others. None of
            those has a prompt of theirs.
        progress: a progress bar, if standard error is a terminal.

    Raises:
        UserError: a slow tokenizer, or a split that is needed and came out empty.
    """
    splits: dict[Split, Rows] = {split: Rows() for split in SPLITS}
    count: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    seen: set[bytes] = set()
    home: dict[bytes, Split] = {}
    tokenized = tqdm(
        _in_splits(conversations, validation or (), renderer, data),
        desc=f"prepare {dataset}",
        unit="row",
        disable=not (progress and sys.stderr.isatty()),
    )
    for conversation, rows, split in tokenized:
        if isinstance(rows, UserError):
            dropped[first_line(rows)] += 1
            continue
        if split is None:
            dropped["its prompt is held out"] += 1
            continue
        identity = bytes.fromhex(content_hash(conversation))
        in_split = 0
        for whole in rows:
            row = Row(*whole.cut(data.max_length))
            tokens = hashlib.sha256(np.asarray(row.input_ids).tobytes()).digest()
            if not learned_tokens(row.labels):
                dropped["nothing left after truncation"] += 1
                continue
            # Different conversations can become the same tokens: cut, or stripped by the template.
            if home.setdefault(tokens, split) != split:
                dropped["same tokens as a row of another split"] += 1
                continue
            splits[split].append(row)
            in_split += 1
            answers, ends_cut = ends_after(whole.labels, data.max_length)
            count["answers"] += answers
            count["ends_cut"] += ends_cut
            count["truncated"] += len(row.input_ids) < len(whole.input_ids)
            count["tokens_cut"] += len(whole.input_ids) - len(row.input_ids)
        if in_split:
            count["split_into_answers"] += len(rows) > 1
            count["duplicates"] += identity in seen
            count["system_merged"] += conversation.system is not None and not renderer.takes_system
            seen.add(identity)
    read = {}
    if isinstance(conversations, Mixture):
        both = conversations if validation is None else validation + conversations
        read = both.counts()
        for problem in both.unreadable[:_SHOWN]:
            log.warning("%s: left out: %s", dataset, problem)
    reasons = Counter(read.pop("dropped", {})) + dropped
    counts = Counts(**read, **count, dropped=dict(sorted(reasons.items())))
    prepared = Prepared(dataset, splits, counts)
    _refuse_empty(prepared, data)
    _report(prepared)
    return prepared


def _in_splits(
    conversations: Iterable[Conversation],
    validation: Iterable[Conversation],
    renderer: Renderer,
    data: Preparation,
) -> Iterator[tuple[Conversation, list[TokenRow] | UserError, Split | None]]:
    """Yield each conversation with its rows and their split; none where its prompt is held out."""
    held_out: set[str] = set()
    for conversation, rows in token_rows(validation, renderer):
        held_out.add(conversation.prompt.strip())
        yield conversation, rows, "held_out"
    for conversation, rows in token_rows(conversations, renderer):
        known = conversation.prompt.strip() in held_out
        yield conversation, rows, None if known else split_of(conversation, data)


def split_of(conversation: Conversation, data: Preparation) -> Split:
    """The split of a prompt: its own draw, so no row's coming or going moves another.

    By the first user turn, not by the whole conversation: a question that stands in train with one
    answer and in held-out with another would measure what was memorised.
    """
    drawn = hashlib.sha256(f"{data.split_seed}:{conversation.prompt.strip()}".encode()).digest()
    u = int.from_bytes(drawn[:8], "big") / 2**64
    if u < data.held_out_fraction:
        return "held_out"
    return "gate" if u < data.held_out_fraction + data.gate_fraction else "train"


def _refuse_empty(prepared: Prepared, data: Preparation) -> None:
    needed: dict[Split, str] = {"train": "", "held_out": "data.held_out_fraction"}
    if data.gate_fraction > 0:
        needed["gate"] = "data.gate_fraction"
    for split, fraction in needed.items():
        if not prepared.splits[split]:
            rows = sum(map(len, prepared.splits.values()))
            dropped = prepared.counts.dropped
            lost = ", ".join(f"{n} {reason}" for reason, n in dropped.items()) or "none"
            change = f"raise {fraction}" if fraction else "lower the held-out and gate fractions"
            raise UserError(
                f"dataset {prepared.dataset}: its {split} split is empty, with {rows} usable rows "
                f"(dropped: {lost}); give more rows, of more than a few first user turns, by which "
                f"they are split, {change}, or raise data.max_length ({data.max_length})"
            )


def _report(prepared: Prepared) -> None:
    rows = ", ".join(f"{len(kept):,} {split}" for split, kept in prepared.splits.items())
    log.info("%s: rows: %s", prepared.dataset, rows)
    for line in said_of(prepared.statistics):
        log.info("%s: %s", prepared.dataset, line)
