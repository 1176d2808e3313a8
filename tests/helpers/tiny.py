"""A tiny random Llama and a task it can learn in seconds, for the tests of this folder."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from ila_core.config import LoraSettings, OptimizerSettings, Schedule, StabilitySettings

VOCABULARY = 64
LORA = LoraSettings(r=4, alpha=8, dropout=0.0)
OPTIMIZER = OptimizerSettings(batch_size=8, weight_decay=0.1, warmup_ratio=0.0, max_grad_norm=0.0)
SCHEDULE = Schedule(lr=1e-2, steps=6)
STABILITY = StabilitySettings(epsilon=0.05, window=2, patience=2, floor=0.25, ceiling=1.0)


@dataclass(frozen=True)
class Row:
    input_ids: list[int]
    labels: list[int]


def model(seed: int = 0, **changes: object) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    config.update(changes)
    return LlamaForCausalLM(config)


def layers(causal: nn.Module) -> list[str]:
    return [name for name, module in causal.named_modules() if isinstance(module, nn.Linear)]


def rows(count: int = 32, seed: int = 0) -> list[Row]:
    """A prompt of three tokens, then an answer that counts on from the last by the first."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        step, start = rng.randint(1, 3), rng.randrange(VOCABULARY)
        prompt = [step, rng.randrange(VOCABULARY), start]
        answer = [(start + step * i) % VOCABULARY for i in range(1, rng.randint(4, 12))]
        made.append(Row(prompt + answer, [-100] * 3 + answer))
    return made
