"""Generation of answers turn by turn; the prompt of a turn contains the earlier answers.

Questions are answered in batches of similar length, the longest first. Every finished batch is
appended to a file, from which an interrupted call resumes. The batch size changes logits by
rounding only, and the random draws not at all (`ila_core.inference.sampling`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from ila_core.config import Frozen, GenerationSettings
from ila_core.data.chat_template import Renderer
from ila_core.data.conversation import Conversation, Message
from ila_core.data.template import special_tokens
from ila_core.errors import CheckError, Diverged, UserError
from ila_core.inference.append_log import Damaged, read_appended
from ila_core.inference.questions import Question
from ila_core.keys import digest_of

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

log = logging.getLogger("ila")

CHARACTERS_PER_TOKEN = 4
"""Rough ratio for English text, used to estimate tokens that were not counted."""


class Answer(Frozen):
    """An answer, one entry per turn; fields that a file of answers does not have are empty."""

    question_id: int
    turns: tuple[str, ...]
    tokens: tuple[int, ...] = ()
    """Number of generated tokens, the end token included."""
    finished: tuple[bool, ...] = ()
    """Whether the model generated an end token; else `max_new_tokens` cut the turn."""
    cut: tuple[int, ...] = ()
    """Number of prompt tokens left out because the context is too short."""


def longest(questions: Sequence[Question], max_new_tokens: int) -> list[Answer]:
    """Return placeholders of the greatest possible length for answers not generated yet."""
    text = "x" * (CHARACTERS_PER_TOKEN * max_new_tokens)
    return [Answer(question_id=q.id, turns=(text,) * len(q.turns)) for q in questions]


def answer_all(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    renderer: Renderer,
    questions: Sequence[Question],
    *,
    settings: GenerationSettings,
    batch: int,
    partial: Path,
    on_metrics: Callable[[int, dict[str, float]], None] | None = None,
) -> list[Answer]:
    """Answer every question, in the order of `questions`.

    Args:
        model: a causal language model of transformers, with or without a PEFT adapter.
        renderer: renders the model profile's chat template.
        settings: temperature, seed and most new tokens.
        batch: number of questions per batch.
        partial: file of finished answers, one a line, from which an interrupted call resumes. It
            records prompts and settings but not the weights: its name must be unique per model.
        on_metrics: called after every batch with the number of answers and their mean tokens.

    Raises:
        UserError: when `max_new_tokens` leaves no room for a prompt, or no token ends an answer.
        CheckError: when `partial` is damaged or holds answers to other prompts or settings.
        Diverged: when a logit is NaN.
    """
    writer = _Writer(model, tokenizer, renderer, settings)
    found = _resumed(partial, {q.id: writer.identity(q) for q in questions})
    if found:
        log.info("%d of %d answers were generated before", len(found), len(questions))
    left = [q for q in questions if q.id not in found]
    left.sort(key=lambda q: -len(writer.prompt(q, ())))
    partial.parent.mkdir(parents=True, exist_ok=True)
    with _generating(model) as causal, partial.open("a", encoding="utf-8") as file:
        for start in range(0, len(left), batch):
            asked = left[start : start + batch]
            for question, answer in zip(asked, writer.answers(causal, asked), strict=True):
                found[question.id] = answer
                line = {"of": writer.identity(question), "answer": answer.model_dump()}
                file.write(json.dumps(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
            if on_metrics is not None:
                tokens = [n for answer in found.values() for n in answer.tokens]
                on_metrics(len(found), {"answer_tokens": sum(tokens) / len(tokens)})
    return [found[question.id] for question in questions]


class _Writer:
    """Generates the answers of one batch of questions."""

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        renderer: Renderer,
        settings: GenerationSettings,
    ) -> None:
        self._tokenizer, self._renderer, self._settings = tokenizer, renderer, settings
        self._context = int(model.config.max_position_embeddings)
        self._room = self._context - settings.max_new_tokens
        if self._room < 2:
            raise UserError(
                f"max_new_tokens: given {settings.max_new_tokens}, and the model reads "
                f"{self._context} tokens, so no prompt would fit; allowed are 1 to "
                f"{self._context - 2}"
            )
        self._ends = end_tokens(model, tokenizer, renderer)

    def identity(self, question: Question) -> str:
        """Digest everything that decides an answer except the model."""
        first = Conversation((Message("user", question.turns[0]),))
        asked = [question.model_dump(exclude={"reference"}), self._renderer.prompt(first)]
        return digest_of([self._settings.model_dump(), self._context, asked])

    def prompt(self, question: Question, answers: Sequence[str]) -> list[int]:
        """Return the token ids of the prompt for the turn after `answers`."""
        messages = [Message("user", question.turns[0])]
        for answer, turn in zip(answers, question.turns[1:], strict=False):
            messages += [Message("assistant", answer), Message("user", turn)]
        text = self._renderer.prompt(Conversation(tuple(messages)))
        ids: list[int] = self._tokenizer(
            text, add_special_tokens=False, return_attention_mask=False, verbose=False
        )["input_ids"]
        return ids

    def answers(self, causal: PreTrainedModel, questions: Sequence[Question]) -> list[Answer]:
        """Answer all turns of one batch."""
        made = [Answer(question_id=question.id, turns=()) for question in questions]
        for turn in range(max(len(question.turns) for question in questions)):
            now = [i for i, question in enumerate(questions) if turn < len(question.turns)]
            whole = [self.prompt(questions[i], made[i].turns) for i in now]
            prompts = [self._fitted(prompt) for prompt in whole]
            written = self._generate(causal, [questions[i] for i in now], prompts, turn)
            for i, prompt, fitted, ids in zip(now, whole, prompts, written, strict=True):
                finished = bool(ids) and ids[-1] in self._ends
                said = ids[:-1] if finished else ids
                text = self._tokenizer.decode(said, skip_special_tokens=True).strip()
                answer = made[i]
                made[i] = Answer(
                    question_id=answer.question_id,
                    turns=(*answer.turns, text),
                    tokens=(*answer.tokens, len(ids)),
                    finished=(*answer.finished, finished),
                    cut=(*answer.cut, len(prompt) - len(fitted)),
                )
        return made

    def _fitted(self, prompt: list[int]) -> list[int]:
        """Truncate a prompt on the left, after its BOS token: the last question must remain."""
        if len(prompt) <= self._room:
            return prompt
        head = prompt[:1] if prompt[0] == self._tokenizer.bos_token_id else []
        return head + prompt[len(prompt) - self._room + len(head) :]

    def _generate(
        self,
        causal: PreTrainedModel,
        questions: Sequence[Question],
        prompts: list[list[int]],
        turn: int,
    ) -> list[list[int]]:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        pad = self._tokenizer.pad_token_id
        pad = self._ends[0] if pad is None else pad
        longest = max(map(len, prompts))
        device = next(causal.parameters()).device
        ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=device)
        mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        processors = LogitsProcessorList([_refuse_nan])
        if self._settings.temperature == "by_category":
            from ila_core.inference.sampling import RowSampler

            keys = [[self._settings.seed, question.id, turn] for question in questions]
            processors.append(RowSampler([q.temperature for q in questions], keys))
        output = causal.generate(
            ids,
            attention_mask=mask.to(device),
            logits_processor=processors,
            generation_config=GenerationConfig(
                do_sample=False,
                max_new_tokens=self._settings.max_new_tokens,
                eos_token_id=list(self._ends) or None,
                pad_token_id=pad,
                use_cache=True,
            ),
        )
        return [until_end(row, self._ends) for row in output[:, longest:].tolist()]


def until_end(ids: list[int], ends: Collection[int | None]) -> list[int]:
    """Cut a row after its first end token; the rest is padding."""
    at = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[: at + 1]


def _refuse_nan(input_ids: Tensor, scores: Tensor) -> Tensor:
    """Refuse NaN logits (batch, vocabulary), from which argmax would take the first token."""
    if bool(scores.isnan().any()):
        raise Diverged("a logit is NaN: check that the model's weights are finite")
    return scores


def end_tokens(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, renderer: Renderer
) -> tuple[int, ...]:
    """Return the ids of all end tokens: the tokenizer's, the model's and the template's.

    The template's end token is the one that fine-tuning teaches; the others may not include it.
    """
    causal = getattr(model, "get_base_model", lambda: model)()
    own = getattr(causal.generation_config, "eos_token_id", None)
    found = {tokenizer.eos_token_id, *(own if isinstance(own, list) else [own])}
    special = tokenizer.convert_tokens_to_ids(sorted(special_tokens(tokenizer)))
    tail = tokenizer(renderer.end_of_answer, add_special_tokens=False)["input_ids"]
    found.add(next((token for token in tail if token in special), None))
    return tuple(sorted(token for token in found if token is not None))


@contextmanager
def _generating(model: PreTrainedModel | PeftModel) -> Iterator[PreTrainedModel]:
    """Replace the model's own generation settings, which would override ours, for the block."""
    import torch
    from transformers import GenerationConfig

    from ila_core.train.loss import eval_mode

    causal = getattr(model, "get_base_model", lambda: model)()
    own, use_cache = causal.generation_config, causal.config.use_cache
    causal.generation_config = GenerationConfig()
    causal.config.use_cache = True
    try:
        with torch.no_grad(), eval_mode(model):
            yield causal
    finally:
        causal.generation_config, causal.config.use_cache = own, use_cache


def _resumed(partial: Path, identities: dict[int, str]) -> dict[int, Answer]:
    """Read the finished answers in `partial`."""
    found = {}
    try:
        for number, row in enumerate(read_appended(partial), start=1):
            try:
                answer, of = Answer.model_validate(row["answer"]), row["of"]
            except (KeyError, TypeError, ValidationError) as error:
                raise Damaged(f"{partial}, line {number}") from error
            if answer.question_id not in identities:
                continue  # a run with fewer questions than the one before
            if of != identities[answer.question_id]:
                raise CheckError(
                    f"{partial}, line {number}: question {answer.question_id} was answered with "
                    "other settings, another template or another text; delete the file, or give "
                    "another one"
                )
            found[answer.question_id] = answer
    except Damaged as error:
        raise CheckError(
            f"{error}: damaged; delete the file, and its answers are generated anew"
        ) from error
    return found
