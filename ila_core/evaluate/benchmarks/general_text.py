"""Forgetting: the loss on text that is unrelated to the fine-tuning data.

An arm's loss minus the base model's loss says how much was forgotten (`ila compare`).
"""

from pathlib import Path

from ila_core.compare.results import Evaluation
from ila_core.config import EvaluateConfig
from ila_core.data.prepared import Row
from ila_core.evaluate.benchmarks.held_out_loss import loss_on
from ila_core.evaluate.subject import Need, Resolved, Subject
from ila_core.evaluate.texts import load_texts, tokenized
from ila_core.resolve import Lock


class GeneralText:
    name = "general_text"
    version = 1
    needs: tuple[Need, ...] = ("texts",)

    def identity(self, evaluate: EvaluateConfig, lock: Lock) -> Resolved:
        settings = evaluate.general_text
        if settings.path is None:
            source: Resolved = {"sampled from the base": settings.model_dump()}
        else:
            source = {"file": lock.files(settings.path), "tokens": settings.tokens}
        return {"text": source, "limit": evaluate.limit}

    def run(self, subject: Subject, evaluate: EvaluateConfig, resolved: Resolved) -> Evaluation:
        settings = evaluate.general_text
        rows, cut = list(subject.texts), 0
        if settings.path is not None:
            texts = load_texts(Path(settings.path))[: evaluate.limit]
            rows, cut = tokenized(subject.tokenizer, texts, settings.tokens)
        asked = [Row(ids, ids) for ids in rows[: evaluate.limit] if len(ids) > 1]
        return loss_on(
            asked,
            subject,
            benchmark=self.name,
            comparable=resolved,
            counts={"texts cut": cut, "sampled from the base": len(subject.texts)},
        )
