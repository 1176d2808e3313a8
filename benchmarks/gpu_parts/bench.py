"""Sizes, the rows of the result, and time by the device's own clock."""

from __future__ import annotations

import gc
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig


@dataclass(frozen=True)
class Size:
    """A Llama, and how much of it is measured."""

    hidden: int
    intermediate: int
    blocks: int
    heads: int
    vocabulary: int
    batch: int
    """Conversations per optimizer step."""
    micro_batch: int
    """Conversations per forward pass."""
    length: int
    """Tokens per conversation."""
    table7: tuple[int, int]
    """Conversations and tokens of each for the memories."""
    iterations: int
    search_steps: int
    dtype: torch.dtype

    @property
    def config(self) -> LlamaConfig:
        return LlamaConfig(
            hidden_size=self.hidden,
            intermediate_size=self.intermediate,
            num_hidden_layers=self.blocks,
            num_attention_heads=self.heads,
            num_key_value_heads=self.heads,
            vocab_size=self.vocabulary,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        )


class LeftOut(Exception):
    """A row that cannot be measured here, and why."""


class Bench:
    """Measures rows by name, writes each as it is done, and knows how much time is left."""

    def __init__(self, size: Size, device: str, seconds: float, out: Path | None) -> None:
        self.size, self.device, self.out = size, device, out
        self.cuda = device.startswith("cuda")
        self._deadline = time.monotonic() + seconds
        self.failed: list[str] = []
        self.results: dict[str, Any] = {}

    def note(self, name: str, value: Any) -> None:
        self.results[name] = value
        if self.out is not None:
            partial = self.out.with_suffix(".partial")
            partial.write_text(json.dumps(self.results, indent=1) + "\n", encoding="ascii")
            partial.rename(self.out)

    def row(self, name: str, measure: Callable[[], dict[str, Any]], needs: float = 0.0) -> None:
        """Measure one row and write it down.

        Args:
            name: of the row.
            measure: returns the row's figures, or raises `LeftOut`.
            needs: seconds on the slowest GPU that it is meant for; left out where fewer are left.
        """
        started = time.monotonic()
        try:
            if self._deadline - started < needs:
                raise LeftOut(f"no time: {max(0.0, self._deadline - started):.0f} s are left")
            found = measure()
            found["seconds"] = round(time.monotonic() - started, 1)
        except LeftOut as why:
            found = {"left_out": str(why)}
        except Exception as error:  # the rows after it are worth having
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}"}
            self.failed.append(name)
        self.note(name, found)
        print(f"{name}: {', '.join(f'{k} {shown(v)}' for k, v in found.items())}", flush=True)
        self.free()

    def free(self) -> None:
        """Give memory that nothing uses back to the device."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()


def shown(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def timed(compute: Callable[[], None], device: str) -> tuple[float, float | None]:
    """Seconds, and peak GiB of tensors where the device counts them."""
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    compute()
    if cuda:
        torch.cuda.synchronize(device)
    spent = time.perf_counter() - started
    return spent, torch.cuda.max_memory_allocated(device) / 2**30 if cuda else None
