"""A model that babbles bytes, and questions to ask it, for the tests of conversations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ila_core.data.chat_template import Renderer
from ila_core.inference.questions import Question
from tests.helpers import tiny

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content + eos_token }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ 'U:' + m.content + '\nA:' }}{% endif %}{% endfor %}"
)
CONTEXT = 192


def tokenizer() -> Any:
    """Byte-level."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", "<pad>", *alphabet])}
    raw = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


def model(seed: int = 0) -> Any:
    """Random weights over the bytes, sharp enough that rounding decides nothing."""
    made = tiny.model(seed, vocab_size=259, max_position_embeddings=CONTEXT)
    made.get_output_embeddings().weight.data.mul_(30)
    made.config.use_cache = False  # as `load_base` leaves it
    return made


def renderer() -> Renderer:
    return Renderer(tokenizer(), TEMPLATE)


QUESTIONS = (
    Question(id=81, category="writing", turns=("Write.", "Shorter.")),
    Question(id=101, category="reasoning", turns=("Why is it so?",), reference=("Because.",)),
    Question(id=111, category="math", turns=("1+1?", "And 2+2?"), reference=("2", "4")),
    Question(id=141, category="stem", turns=("What is a quark, in short words?", "And an atom?")),
)


def write_lines(path: Path, *rows: object) -> Path:
    """JSON Lines; a text is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def asked(number: int, *turns: str, category: str = "writing") -> dict[str, object]:
    return {"question_id": number, "category": category, "turns": list(turns)}


def answered(number: int, *turns: str) -> dict[str, object]:
    return {"question_id": number, "choices": [{"index": 0, "turns": list(turns)}]}
