"""A model of one's own judges by the grade that it expects to read after a short prompt.

It writes nothing, so it needs no skill in following a format, gives the same grade each time, and
works offline. What a small model expects is no judgement that anybody published: its grades are
marked and never stand in the paper's column.
"""

import math
from collections.abc import Sequence
from typing import Any

from ila_core.errors import Diverged
from ila_core.inference.likelihood import common_prefix, log_likelihoods
from ila_core.inference.likelihood_cache import Continuation
from ila_core.judge.ask import READINGS, Ask, VerdictStore
from ila_core.judge.prompts import JudgePrompts
from ila_core.judge.verdict import Verdict


class LocalJudge:
    """Grades by log-likelihood.

    The grade is the expectation over ` 1` to ` 10`, not the likeliest of them: that would be the
    same number for nearly every answer where the model is small. Of two answers it prefers one, or
    neither: the likeliest of the three letters, as a judge that writes would, so that both orders
    can agree.

    Args:
        model: any causal language model of transformers.
        tokenizer: the model's.
        name: the model's name.
        files: the digest of its files (`ila_core.models.files.model_files_digest`).
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
        """Return one per ask, in their order; `too_long` where a prompt exceeds the context."""
        found = []
        for ask in asks:
            verdict = store.get(self.identity, ask)
            if verdict is None:
                verdict = self._verdict(ask)
                store.put(self.identity, ask, verdict)
            found.append(verdict)
        return found

    def _verdict(self, ask: Ask) -> Verdict:
        reading = READINGS[ask.reading]
        choices = reading.choices
        # The last message alone: it repeats the task, and a base model knows no system message.
        prompt = ask.messages[-1]["content"]
        # The end of the line keeps ` 1` apart from the beginning of ` 10`.
        rows = [self._tokens(f"{prompt} {choice}\n") for choice in choices]
        longest, shortest = max(map(len, rows)), min(map(len, rows))
        if longest > self._context:
            said = f"{longest} tokens; the judge reads {self._context}"
            return Verdict(grade=None, why_not="too_long", text=said)
        begin = min(len(common_prefix(rows)), shortest - 1)
        likelihoods = log_likelihoods(
            self._model,
            [Continuation(row[:-1], row[begin:]) for row in rows],
            batch=len(rows),
        )
        highest = max(likelihoods)
        if not math.isfinite(highest):
            raise Diverged("the local judge gives log-likelihoods that are not finite")
        weights = [math.exp(value - highest) for value in likelihoods]
        total = math.fsum(weights)
        worth = list(choices.values())
        grade = math.fsum(w * c for w, c in zip(weights, worth, strict=True)) / total
        if not reading.expected:
            grade = worth[likelihoods.index(highest)]
        said = ", ".join(f"{c} {w / total:.3f}" for c, w in zip(choices, weights, strict=True))
        return Verdict(grade=grade, text=said, model=self.identity["model"], prompt_tokens=longest)

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, return_attention_mask=False, verbose=False)["input_ids"])
