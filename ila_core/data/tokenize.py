"""Conversations to token rows: which tokens are learned, what is dropped, which split it is in.

>>> prepared = prepare(conversations, tokenizer, None, data, dataset="lima")
>>> prepared.dropped
{'ends on a user turn': 1}
"""

import hashlib
import logging
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

from ila_core.config import DataConfig
from ila_core.data.batches import loss_tokens
from ila_core.data.chat_template import Renderer
from ila_core.data.conversation import Conversation, content_hash
from ila_core.data.loss_mask import labels
from ila_core.data.prepared import SPLITS, Prepared, Row, Split
from ila_core.errors import UserError

log = logging.getLogger("ila")

# Rows tokenized at once: enough for the tokenizer's threads, few enough that the character
# offsets, which take far more memory than the tokens, stay small.
_CHUNK = 512


def prepare(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    template: str | None,
    data: DataConfig,
    *,
    dataset: str,
    progress: bool = False,
) -> Prepared:
    """Tokenize, mark the loss, drop what cannot be used, and split by content.

    Args:
        conversations: what `load_dataset` gave.
        tokenizer: a fast tokenizer (`ila_core.models.loading.load_tokenizer`).
        template: the model profile's chat template; `None` uses the tokenizer's own.
        data: maximum length and splits.
        dataset: the dataset's name, for the statistics and for error messages.
        progress: a progress bar, if standard error is a terminal.

    Raises:
        UserError: no usable template, or a split that is needed and came out empty.
    """
    renderer = Renderer(tokenizer, template)
    splits: dict[Split, list[Row]] = {split: [] for split in SPLITS}
    usable, dropped = _usable(conversations)
    truncated = duplicates = system_merged = 0
    seen: set[str] = set()
    home: dict[tuple[int, ...], Split] = {}
    rows = tqdm(
        _tokenized(usable, tokenizer, renderer),
        desc=f"prepare {dataset}",
        total=len(usable),
        unit="row",
        disable=not (progress and sys.stderr.isatty()),
    )
    for conversation, whole in zip(usable, rows, strict=True):
        row = Row(whole.input_ids[: data.max_length], whole.labels[: data.max_length])
        identity = content_hash(conversation)
        split = split_of(identity, data)
        if not loss_tokens(row):
            dropped["nothing left after truncation"] += 1
        # Different conversations can become the same tokens: cut, or stripped by the template.
        elif home.setdefault(tuple(row.input_ids), split) != split:
            dropped["same tokens as a row of another split"] += 1
        else:
            splits[split].append(row)
            truncated += len(row.input_ids) < len(whole.input_ids)
            duplicates += identity in seen
            system_merged += conversation.system is not None and not renderer.takes_system
            seen.add(identity)
    reasons = dict(sorted(dropped.items()))
    prepared = Prepared(dataset, splits, reasons, truncated, duplicates, system_merged)
    _refuse_empty(prepared, data, len(conversations))
    _report(prepared)
    return prepared


def why_unusable(conversation: Conversation) -> str | None:
    """The reason to drop a conversation whatever the tokenizer, or `None`."""
    turns = conversation.turns
    if all(turn.role != "user" for turn in turns):
        return "no user turn"
    if any(turn.role != ("user", "assistant")[i % 2] for i, turn in enumerate(turns)):
        return "roles do not alternate"
    if turns[-1].role == "user":
        return "ends on a user turn"
    if any(turn.role == "assistant" and not turn.content.strip() for turn in turns):
        return "empty answer"
    return None


def _usable(conversations: Sequence[Conversation]) -> tuple[list[Conversation], Counter[str]]:
    reasons = [why_unusable(conversation) for conversation in conversations]
    usable = [c for c, reason in zip(conversations, reasons, strict=True) if reason is None]
    return usable, Counter(reason for reason in reasons if reason is not None)


def split_of(identity: str, data: DataConfig) -> Split:
    """The split of a content hash: its own draw, so no row's coming or going moves another."""
    drawn = hashlib.sha256(f"{data.split_seed}:{identity}".encode()).digest()
    u = int.from_bytes(drawn[:8], "big") / 2**64
    if u < data.held_out_fraction:
        return "held_out"
    return "gate" if u < data.held_out_fraction + data.gate_fraction else "train"


def _tokenized(
    conversations: Sequence[Conversation], tokenizer: Any, renderer: Renderer
) -> Iterator[Row]:
    if not tokenizer.is_fast:
        raise UserError(
            "the base model's tokenizer is a slow one, which does not say where a token stands in "
            "the text; a tokenizer.json is needed"
        )
    for start in range(0, len(conversations), _CHUNK):
        rendered = [renderer.render(c) for c in conversations[start : start + _CHUNK]]
        tokens = tokenizer(
            [r.text for r in rendered],
            add_special_tokens=False,  # the template writes them
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        columns = zip(rendered, tokens["input_ids"], tokens["offset_mapping"], strict=True)
        for r, ids, offsets in columns:
            yield Row(ids, labels(ids, offsets, r.spans))


def _refuse_empty(prepared: Prepared, data: DataConfig, given: int) -> None:
    needed: dict[Split, str] = {"train": "", "held_out": "data.held_out_fraction"}
    if data.gate_fraction > 0:
        needed["gate"] = "data.gate_fraction"
    for split, fraction in needed.items():
        if not prepared.splits[split]:
            rows = sum(map(len, prepared.splits.values()))
            lost = ", ".join(f"{n} {reason}" for reason, n in prepared.dropped.items()) or "none"
            change = f"raise {fraction}" if fraction else "lower the held-out and gate fractions"
            raise UserError(
                f"dataset {prepared.dataset}: its {split} split is empty, with {rows} usable of "
                f"{given} rows (dropped: {lost}); give more rows, {change}, or raise "
                f"data.max_length ({data.max_length})"
            )


def _report(prepared: Prepared) -> None:
    rows = {split: len(kept) for split, kept in prepared.splits.items()}
    log.info(
        "%s: rows %s, dropped %s, %d truncated, %d duplicates, %d with the system message merged "
        "into the first user turn",
        prepared.dataset,
        rows,
        prepared.dropped or "none",
        prepared.truncated,
        prepared.duplicates,
        prepared.system_merged,
    )
