"""General text, on which forgetting is seen: read from a file, or sampled from the base itself."""

import json
from pathlib import Path
from typing import Any

from ila_core.errors import UserError
from ila_core.provenance import seeded

_AT_ONCE = 32
"""Texts sampled together."""


def load_texts(path: Path) -> list[str]:
    """JSON Lines with `text`, or paragraphs that blank lines keep apart.

    Raises:
        UserError: no file, no text in it, or a line that has none, by number.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is no file: give evaluate.general_text.path a .jsonl file with `text`, a .txt "
            "file, or null to sample texts from the base"
        )
    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}") from error
    if path.suffix == ".jsonl":
        lines = enumerate(content.splitlines(), 1)
        texts = [_text(path, number, line) for number, line in lines if line.strip()]
    else:
        texts = [part.strip() for part in content.split("\n\n") if part.strip()]
    if not texts:
        raise UserError(f"{path} holds no text")
    return texts


def _text(path: Path, number: int, line: str) -> str:
    try:
        text = json.loads(line)["text"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}, line {number}: no JSON object with `text` ({error})") from error
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{path}, line {number}: `text` is empty or no text")
    return text


def tokenized(tokenizer: Any, texts: list[str], most: int) -> tuple[list[list[int]], int]:
    """Tokens of each text, the first `most` of them, and how many texts were cut."""
    rows = [tokenizer(text, verbose=False)["input_ids"] for text in texts]
    return [row[:most] for row in rows], sum(len(row) > most for row in rows)


def sample_texts(
    model: Any, tokenizer: Any, *, texts: int, tokens: int, seed: int
) -> list[list[int]]:
    """What the base writes when it is asked nothing, at temperature 1, as token rows.

    A fine-tuned model's loss on it, less the base's own, is how far the two have come apart where
    the base lives: the mean over texts estimates the Kullback-Leibler divergence per token.

    Args:
        model: the base.
        tokenizer: its own.
        texts: how many.
        tokens: of each, the one that begins it included; one that ends earlier is shorter.
        seed: of the draws.
    """
    import torch
    from transformers import GenerationConfig

    from ila_core.train.loss import eval_mode

    end = tokenizer.eos_token_id
    begin = end if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    if begin is None:
        raise UserError("the tokenizer has neither a BOS nor an EOS token to begin a text with")
    config = GenerationConfig(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, max_new_tokens=tokens - 1,
        eos_token_id=end, pad_token_id=tokenizer.pad_token_id, use_cache=True,
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
            rows += [_until(row, end) for row in found.tolist()]
    return rows


def _until(row: list[int], end: int | None) -> list[int]:
    """Up to the end token behind the first; what follows is padding."""
    try:
        return row[: row.index(end, 1) + 1]  # type: ignore[arg-type]
    except ValueError:
        return row
