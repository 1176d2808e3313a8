"""General text to measure forgetting on: read from a file or sampled from the base model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ila_core.data.rows import SourceRow, read_rows
from ila_core.errors import UserError
from ila_core.inference.generate import until_end
from ila_core.provenance import seeded

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_AT_ONCE = 32
"""Number of texts sampled in one batch."""


def load_texts(path: Path) -> list[str]:
    """Read texts from JSON Lines (field `text`), or paragraphs separated by blank lines.

    Raises:
        UserError: when there is no such file, it holds no text, or a line of it has none.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is no file: give evaluate.general_text.path a .jsonl file with `text`, a .txt "
            "file, or null to sample texts from the base"
        )
    if path.suffix == ".jsonl":
        texts = [_text(row) for row in read_rows(path)]
    else:
        try:
            content = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8: {error}") from error
        texts = [part.strip() for part in content.split("\n\n") if part.strip()]
    if not texts:
        raise UserError(f"{path} holds no text")
    return texts


def _text(row: SourceRow) -> str:
    text = row.text("text")
    if not text.strip():
        raise row.wrong("text", "empty")
    return text


def tokenized(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], most: int
) -> tuple[list[list[int]], int]:
    """Return the first `most` token ids of each text, and how many texts were truncated."""
    rows = [tokenizer(text, verbose=False)["input_ids"] for text in texts]
    return [row[:most] for row in rows], sum(len(row) > most for row in rows)


def sample_texts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    texts: int,
    tokens: int,
    seed: int,
) -> list[list[int]]:
    """Sample texts from the base model at temperature 1, without a prompt; return token ids.

    A fine-tuned model's loss on them minus the base model's loss, averaged over texts, estimates
    the Kullback-Leibler divergence KL(base || fine-tuned) per token.

    Args:
        tokens: greatest length of a text, its first token (BOS or EOS) included.

    Raises:
        UserError: when the tokenizer has neither a BOS nor an EOS token.
    """
    import torch
    from transformers import GenerationConfig

    from ila_core.train.loss import eval_mode

    end = tokenizer.eos_token_id
    begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        raise UserError("the tokenizer has neither a BOS nor an EOS token to begin a text with")
    pad = tokenizer.pad_token_id
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=tokens - 1,
        eos_token_id=end, pad_token_id=begin if pad is None else pad, use_cache=True,
    )  # fmt: skip
    rows: list[list[int]] = []
    device = next(model.parameters()).device
    with torch.no_grad(), eval_mode(model), seeded(seed):
        for start in range(0, texts, _AT_ONCE):
            count = min(_AT_ONCE, texts - start)
            prompt = torch.full((count, 1), begin, device=device)
            found = model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                generation_config=config,
            )
            # The first token of a text may be an end token.
            rows += [row[:1] + until_end(row[1:], (end,)) for row in found.tolist()]
    return rows
