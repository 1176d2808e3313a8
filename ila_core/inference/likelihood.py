"""Log-likelihood of continuations under a causal language model, for multiple choice.

Shared parts are computed once: one row for all one-token continuations of the same context (MMLU's
four letters), and, within a family (a subject), the keys and values of the prefix that all its
prompts share (its few-shot examples).
"""

from __future__ import annotations

import copy
import logging
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ila_core.errors import CheckError, Diverged
from ila_core.inference.likelihood_cache import Continuation, Scores

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel

    from ila_core.train.loss import TokenLoss

log = logging.getLogger("ila")

_WORTH_SHARING = 16
"""Least tokens of a shared prefix; a shorter one costs more in an extra pass than it saves."""
_TOKENS_ON_CPU = 2048
"""Most tokens per forward pass on a CPU, so that activations stay in its caches: stories3M reads
512-token prompts in 0.6 of the time that passes of 32 rows (16,384 tokens) take."""


def log_likelihoods(
    model: PreTrainedModel | PeftModel,
    continuations: Sequence[Continuation],
    *,
    batch: int,
    on_rows: Callable[[int], None] = lambda rows: None,
    kept: Path | None = None,
) -> list[float]:
    """Return the summed log-probability of each continuation, in nats.

    The division into passes depends on the continuations alone, not on which are finished, so that
    an interrupted call gives the same bits as an uninterrupted one.

    Args:
        model: a causal language model of transformers, with or without an adapter.
        batch: rows per forward pass; halved when memory runs out.
        on_rows: called with the number of rows just computed, or read from `kept`.
        kept: a folder for the scores of finished passes, from which an interrupted call resumes;
            each model needs its own.

    Raises:
        CheckError: when memory runs out with one row, or a file in `kept` is damaged.
        Diverged: when a log-likelihood is not finite.
    """
    import torch
    from accelerate.utils import find_executable_batch_size

    from ila_core.train.loss import TokenLoss, eval_mode

    wanted: dict[tuple[int, ...], list[tuple[int, ...]]] = defaultdict(list)
    families: dict[tuple[int, ...], str] = {}
    for c in continuations:
        wanted[c.inputs].append(c.targets)
        families[c.inputs] = c.family
    scores = Scores(continuations, kept)
    done = scores.done
    if done:
        before = len({inputs for inputs, _ in done})
        log.info("%d of %d prompts were scored before", before, len(wanted))
        on_rows(before)
    token_loss = TokenLoss(model)

    most = _TOKENS_ON_CPU if token_loss.device.type == "cpu" else None

    def half() -> int:
        nonlocal batch
        batch //= 2
        return batch

    # Restarted with half the rows when memory runs out; what is done stays done.
    @find_executable_batch_size(starting_batch_size=batch, reduce_batch_size_fn=half)  # type: ignore[untyped-decorator]
    def score(rows: int) -> None:
        for prefix, members in _shared(list(wanted), families, wanted):
            cache = None
            for whole in _batches(members, len(prefix), rows, most):
                part = [inputs for inputs in whole if (inputs, wanted[inputs][0]) not in done]
                if not part:
                    continue
                if prefix and cache is None:
                    cache = _read(token_loss, prefix)
                scores.add(_score(token_loss, cache, len(prefix), part, wanted))
                on_rows(len(part))

    with torch.no_grad(), eval_mode(model), scores:
        try:
            score()
        except RuntimeError as error:
            if "No executable batch size" not in str(error):
                raise
            raise CheckError(
                f"out of memory with one row of {max(map(len, wanted))} tokens"
            ) from error
    found = [done[c.inputs, c.targets] for c in continuations]
    if not all(map(math.isfinite, found)):
        raise Diverged("a log-likelihood is not finite: check that the model's weights are")
    return found


def _shared(
    inputs: Sequence[tuple[int, ...]],
    families: dict[tuple[int, ...], str],
    wanted: dict[tuple[int, ...], list[tuple[int, ...]]],
) -> list[tuple[tuple[int, ...], list[tuple[int, ...]]]]:
    """Group inputs by shared prefix, longest input first; the prefix `()` groups the others."""
    by_family: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for given in inputs:
        by_family[families[given]].append(given)
    groups, alone = [], []
    for members in by_family.values():
        # A prompt that was cut has lost its beginning: it shares nothing, and must not hinder.
        first = max(set(m[:_WORTH_SHARING] for m in members), key=lambda h: _count(members, h))
        whole = [m for m in members if m[:_WORTH_SHARING] == first]
        prefix = common_prefix(whole) if len(whole) > 1 else ()
        # Positions that predict a target are read anew: the prefix gives no logits.
        prefix = prefix[: min(len(m) - max(map(len, wanted[m])) for m in whole)]
        if len(prefix) < _WORTH_SHARING:
            prefix, whole = (), []
        else:
            groups.append((prefix, sorted(whole, key=lambda m: -len(m))))
        kept = set(whole)
        alone += [m for m in members if m not in kept]
    if alone:
        groups.append(((), sorted(alone, key=lambda m: -len(m))))
    return groups


def _batches(
    members: Sequence[tuple[int, ...]], skip: int, rows: int, most: int | None
) -> Iterator[Sequence[tuple[int, ...]]]:
    """Yield batches of up to `rows` rows and `most` tokens; the first row is the longest."""
    start = 0
    while start < len(members):
        fit = rows if most is None else max(1, min(rows, most // (len(members[start]) - skip)))
        yield members[start : start + fit]
        start += fit


def common_prefix(members: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Return the tokens with which all `members` begin."""
    first, last = min(members), max(members)  # in their order, all others lie between
    differing = (i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return first[: next(differing, min(len(first), len(last)))]


def _count(members: Sequence[tuple[int, ...]], head: tuple[int, ...]) -> int:
    return sum(m[:_WORTH_SHARING] == head for m in members)


def _read(token_loss: TokenLoss, prefix: tuple[int, ...]) -> DynamicCache:
    """Compute the keys and values of the prefix, with batch size 1."""
    import torch
    from transformers import DynamicCache

    cache = DynamicCache(config=token_loss.config)
    ids = torch.tensor([prefix], device=token_loss.device)
    token_loss.states(input_ids=ids, past_key_values=cache, use_cache=True)
    return cache


def _score(
    token_loss: TokenLoss,
    cache: DynamicCache | None,
    skip: int,
    part: Sequence[tuple[int, ...]],
    wanted: dict[tuple[int, ...], list[tuple[int, ...]]],
) -> dict[tuple[tuple[int, ...], tuple[int, ...]], float]:
    import torch

    rest = [inputs[skip:] for inputs in part]
    longest = max(map(len, rest))
    # Padded on the right and never masked: nothing looks ahead in a causal model.
    ids = torch.tensor([r + (0,) * (longest - len(r)) for r in rest], device=token_loss.device)
    extra = {}
    if cache is not None:
        rows = copy.deepcopy(cache)
        rows.batch_repeat_interleave(len(part))
        positions = torch.arange(skip, skip + longest, device=token_loss.device)
        extra = {
            "past_key_values": rows,
            "use_cache": True,
            "position_ids": positions.expand(len(part), -1),
        }
    hidden = token_loss.states(input_ids=ids, **extra)
    names: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    where: list[tuple[int, int]] = []
    what: list[int] = []
    owner: list[int] = []
    for row, (inputs, r) in enumerate(zip(part, rest, strict=True)):
        for targets in wanted[inputs]:
            start = len(r) - len(targets)
            where += [(row, start + i) for i in range(len(targets))]
            what += targets
            owner += [len(names)] * len(targets)
            names.append((inputs, targets))
    at: Tensor = torch.tensor(where, device=token_loss.device)
    log_p = token_loss.log_p(hidden[at[:, 0], at[:, 1]], torch.tensor(what, device=at.device))
    sums = torch.zeros(len(names), dtype=torch.float64)
    sums.index_add_(0, torch.tensor(owner), log_p.cpu().double())
    return dict(zip(names, sums.tolist(), strict=True))
