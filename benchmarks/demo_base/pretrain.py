"""Makes the demo's base model: a small Llama trained from nothing on our own text.

`python -m benchmarks.demo_base.pretrain --out DIR` writes model, tokenizer and card. It stops after
`--steps`; a stopped run goes on from its last checkpoint with the same command. The learning rate
stays constant until the last `DECAY` of the steps, so a checkpoint from before that point may be
continued with another `--steps` and equals a run that was planned so from the start.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.demo_base.card import card
from benchmarks.demo_base.text import document

VOCAB, CONTEXT, ROWS = 1024, 512, 8
PEAK, WARMUP, DECAY = 3e-3, 200, 0.35
SPECIALS = ("<pad>", "</s>", "<|user|>", "<|assistant|>")
# No newlines around the markers: three tokens per exchange, and no loss spent on layout.
CHAT_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|assistant|>"
    "{% generation %}{{ m['content'] }}</s>{% endgeneration %}"
    "{% else %}<|user|>{{ m['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """A byte-level BPE of `VOCAB` entries; digits stand alone, so that sums can be learned."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((document(f"tokenizer-{seed}", i) for i in range(20_000)), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def make_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB, hidden_size=128, intermediate_size=384, num_hidden_layers=6,
            num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=CONTEXT,
            tie_word_embeddings=False, pad_token_id=0, bos_token_id=None, eos_token_id=1,
        )
    )  # fmt: skip


class Packed:
    """Rows of `CONTEXT` tokens cut from a document stream, documents ended by `</s>`."""

    def __init__(self, tokenizer: Tokenizer, seed: str) -> None:
        self.tokenizer, self.seed = tokenizer, seed
        self.index, self.rest = 0, [1]

    def batch(self, rows: int) -> torch.Tensor:
        need = rows * CONTEXT
        while len(self.rest) < need:
            texts = [document(self.seed, i) for i in range(self.index, self.index + 64)]
            self.index += 64
            for code in self.tokenizer.encode_batch(texts):
                self.rest += [*code.ids, 1]
        taken, self.rest = self.rest[:need], self.rest[need:]
        return torch.tensor(taken).view(rows, CONTEXT)


def held_out_rows(tokenizer: Tokenizer, rows: int = 64) -> torch.Tensor:
    return Packed(tokenizer, "held-out").batch(rows)


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    model.eval()
    parts = [rows[i : i + ROWS] for i in range(0, len(rows), ROWS)]
    total = sum(float(model(input_ids=part, labels=part).loss) for part in parts)
    model.train()
    return total / len(parts)


def rate(step: int, steps: int) -> float:
    """Warm up, stay, then fall to zero as one minus a square root (no kink at the end)."""
    start = int(steps * (1 - DECAY))
    down = 1.0 if step < start else 1 - math.sqrt((step - start) / (steps - start))
    return PEAK * min(1.0, (step + 1) / WARMUP) * down


class Pace:
    """Uses as many threads as are quickest now, measured again every `EVERY` steps.

    On a shared machine every parallel loop waits for its slowest thread. Measured on two cores of
    which another process took one: a step of 8 rows took 6 s with two threads, 1 s with one.
    """

    EVERY, TRIES = 60, 3

    def __init__(self, most: int) -> None:
        self.most, self.seconds = most, dict.fromkeys(range(1, most + 1), math.inf)
        self.count, self.last = -1, time.monotonic()

    def step(self) -> None:
        self.count += 1
        now, place = time.monotonic(), self.count % self.EVERY
        if 0 < place <= self.most * self.TRIES:
            used = (place - 1) // self.TRIES + 1
            self.seconds[used] = min(self.seconds[used], now - self.last)
        if place == 0:
            self.seconds = dict.fromkeys(self.seconds, math.inf)
        if place <= self.most * self.TRIES:
            best = min(self.seconds, key=lambda n: self.seconds[n])
            trial = place // self.TRIES + 1
            torch.set_num_threads(trial if trial <= self.most else best)
        self.last = time.monotonic()


def train(
    out: Path, steps: int, seed: int, threads: int, compiled: bool, say: Callable[[str], None]
) -> dict[str, Any]:
    """Train until `steps`, writing a checkpoint on the way; returns what the card needs."""
    tokenizer = make_tokenizer(seed)
    tokenizer.save_pretrained(out)
    fast: Tokenizer = tokenizer.backend_tokenizer
    model, data, held = make_model(seed), Packed(fast, f"train-{seed}"), held_out_rows(fast)
    decay = [p for p in model.parameters() if p.dim() > 1]
    plain = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=PEAK, betas=(0.9, 0.95), fused=True,
    )  # fmt: skip
    facts: dict[str, Any] = {
        "step": 0,
        "wall": 0.0,
        "curve": [[0, 0.0, held_out_loss(model, held)]],
    }
    saved = out / "checkpoint.pt"
    if saved.exists():
        state = torch.load(saved, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        data.index, data.rest, facts = state["index"], state["rest"], state["facts"]
    # Measured on two cores: 8,300 tokens a second without torch.compile, 11,100 with it.
    forward = torch.compile(model, options={"cpp.dynamic_threads": True}) if compiled else model
    pace = Pace(threads)
    began = time.monotonic() - facts["wall"]
    recent: list[float] = []
    for step in range(facts["step"], steps):
        for group in optimizer.param_groups:
            group["lr"] = rate(step, steps)
        rows = data.batch(ROWS)
        pace.step()
        loss = forward(input_ids=rows, labels=rows).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        recent = [*recent[-199:], loss.item()]
        wall = time.monotonic() - began
        two_minutes = wall >= 120 and "two_minutes" not in facts
        if two_minutes or (step + 1) % 100 == 0 or step + 1 == steps:
            facts |= {"step": step + 1, "wall": wall, "train": sum(recent) / len(recent)}
            facts["curve"].append([step + 1, wall, held_out_loss(model, held)])
            if two_minutes:
                facts["two_minutes"] = facts["curve"][-1]
            say(f"step {step + 1} wall {wall:.0f} threads {torch.get_num_threads()} "
                f"train {facts['train']:.4f} held-out {facts['curve'][-1][2]:.4f}")  # fmt: skip
            torch.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(),
                 "index": data.index, "rest": data.rest, "facts": facts},
                saved.with_suffix(".new"),
            )  # fmt: skip
            saved.with_suffix(".new").replace(saved)
    model.save_pretrained(out)
    facts |= {"seed": seed, "tokens": steps * ROWS * CONTEXT, "documents": data.index}
    facts.setdefault("two_minutes", facts["curve"][-1])  # a run that was shorter than that
    facts["parameters"] = sum(p.numel() for p in model.parameters())
    return facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--no-compile", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    facts = train(
        args.out,
        args.steps,
        args.seed,
        args.threads,
        not args.no_compile,
        partial(print, flush=True),
    )
    (args.out / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
    (args.out / "README.md").write_text(card(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
