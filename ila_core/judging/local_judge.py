"""A model of one's own as judge: which grade it expects to read after a short prompt.

It writes nothing, so it needs no skill in following a format, gives the same grade each time, and
works offline. What a small model expects is no judgement that anybody published: its grades are
marked and never stand in the paper's column.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

from ila_core.errors import Diverged
from ila_core.judging.asking import READINGS, Ask
from ila_core.judging.prompts import JudgePrompts
from ila_core.judging.store import VerdictStore
from ila_core.judging.verdict import Verdict

log = logging.getLogger("ila")


class LocalJudge:
    """Grades by log-likelihood.

    The grade is the expectation over ` 1` to ` 10`, not the likeliest of them: that would be the
    same number for nearly every answer where the model is small.

    Args:
        model: any causal language model of transformers.
        tokenizer: the model's.
        name: the model's name.
        files: the digest of its files (`ila_core.loading.model_files_digest`).
    """

    local = True
    repeats = 1

    def __init__(self, model: Any, tokenizer: Any, *, name: str, files: str) -> None:
        self.prompts = JudgePrompts.short()
        self._model, self._tokenizer = model, tokenizer
        self._context = int(model.config.max_position_embeddings)
        dtype = str(next(model.parameters()).dtype).removeprefix("torch.")
        self.identity = {"kind": "local", "model": name, "files": files, "dtype": dtype}

    def verdicts(self, asks: Sequence[Ask], store: VerdictStore) -> list[Verdict]:
        """One per ask, in their order; `too_long` where the prompt does not fit the context."""
        import torch

        from ila_core.loss import eval_mode

        found = []
        with torch.no_grad(), eval_mode(self._model):
            for ask in asks:
                verdict = store.get(self.identity, ask)
                if verdict is None:
                    verdict = self._verdict(ask)
                    store.put(self.identity, ask, verdict)
                found.append(verdict)
        return found

    def _verdict(self, ask: Ask) -> Verdict:
        choices = READINGS[ask.reading].choices
        # The last message alone: it repeats the task, and a base model knows no system message.
        prompt = ask.messages[-1]["content"]
        # The end of the line keeps ` 1` apart from the beginning of ` 10`.
        rows = [self._tokens(f"{prompt} {choice}\n") for choice in choices]
        longest = max(map(len, rows))
        if longest > self._context:
            said = f"{longest} tokens; the judge reads {self._context}"
            return Verdict(grade=None, why_not="too_long", text=said)
        likelihoods = self._log_likelihoods(rows)
        highest = max(likelihoods)
        if not math.isfinite(highest):
            raise Diverged("the local judge gives log-likelihoods that are not finite")
        weights = [math.exp(value - highest) for value in likelihoods]
        total = math.fsum(weights)
        expected = math.fsum(w * c for w, c in zip(weights, choices.values(), strict=True)) / total
        said = ", ".join(f"{c} {w / total:.3f}" for c, w in zip(choices, weights, strict=True))
        return Verdict(
            grade=expected, text=said, model=self.identity["model"], prompt_tokens=longest
        )

    def _tokens(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, return_attention_mask=False, verbose=False)[
            "input_ids"
        ]
        return ids

    def _log_likelihoods(self, rows: list[list[int]]) -> list[float]:
        """Of what each row has behind the beginning that all share, which is read once."""
        import torch

        shared = _shared(rows)
        device = next(self._model.parameters()).device
        beginning = torch.tensor([rows[0][:shared]], device=device)
        first = self._model(input_ids=beginning, use_cache=True, logits_to_keep=1)
        cache = first.past_key_values
        cache.batch_repeat_interleave(len(rows))
        tails = [row[shared:] for row in rows]
        longest = max(map(len, tails))
        # Padding on the right, which nothing before it sees.
        ids = torch.tensor([tail + [0] * (longest - len(tail)) for tail in tails], device=device)
        logits = self._model(input_ids=ids, past_key_values=cache, use_cache=True).logits
        start = first.logits[:, -1:].expand(len(rows), -1, -1)
        log_p = torch.cat([start, logits[:, :-1]], dim=1).double().log_softmax(-1)
        each = log_p.gather(2, ids[:, :, None])[:, :, 0].tolist()
        return [math.fsum(row[: len(tail)]) for row, tail in zip(each, tails, strict=True)]


def _shared(rows: list[list[int]]) -> int:
    """Tokens at the beginning that all rows have, less than the shortest has."""
    shortest = min(map(len, rows)) - 1
    for i in range(shortest):
        if any(row[i] != rows[0][i] for row in rows):
            return i
    return shortest
