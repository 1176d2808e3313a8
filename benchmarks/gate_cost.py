"""What a stage-2 step costs beside a stage-1 step: time, and bytes held for the backward pass.

    python benchmarks/gate_cost.py [--rounds 30] [--threads 1] [--quick] [--json]

One Llama shape, random weights, float32, no checkpointing, 4 x 256 tokens without padding. Steps of
all variants are interleaved, round by round; times are medians of paired ratios to ILA's own stage
1 (LoRA dropout 0). `stage1_by_peft` is that with PEFT's modules, `stock_peft` with the model's own
loss too, and `floor` the base model alone, frozen, with a gradient for its input. Bytes are all
that is alive, parameters left out, when the gradient reaches the logits: what the body keeps for
its backward, and the loss.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from weakref import WeakSet, finalize

import torch
from record import Tolerance, recorded
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import LlamaConfig, LlamaForCausalLM

from ila_core.config import LoraSettings
from ila_core.search.gates import Gates
from ila_core.train.lora_function import fused_lora
from ila_core.train.loss import TokenLoss
from ila_core.train.methods.lora import Lora, lora_layers
from ila_core.train.recompute import recomputing_activations

SHAPE = {
    "hidden_size": 512,
    "intermediate_size": 1376,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "vocab_size": 8000,
    "tie_word_embeddings": False,
}
BATCH, LENGTH = 4, 256
# Three runs gave 0.89, 0.94 and 0.95 for a stage-2 step over a stage-1 step (docs/LOG.md).
TOLERANCE: Tolerance = {"*ms_median": (0.5, 0.0), "*time*": (0.1, 0.0), "*": (0.02, 0.0)}


class Alive(TorchDispatchMode):
    """Bytes of all storages made within the block that still exist."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        self._known: WeakSet[Any] = WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if _is_tensor(t)}
        result = function(*args, **(kwargs or {}))
        for tensor in filter(_is_tensor, tree_leaves(result)):
            storage = tensor.untyped_storage()
            if storage._cdata not in given and storage not in self._known:
                self._known.add(storage)
                self.now += storage.nbytes()
                finalize(storage, self._release, storage.nbytes())
        return result

    def _release(self, size: int) -> None:
        self.now -= size


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, Tensor)


@contextmanager
def as_trained(model: Any) -> Iterator[None]:
    """The arithmetic of stage 1 within `ila_core.train.loop.train`."""
    with fused_lora(model), recomputing_activations(model):
        yield


class Variant:
    """A model with a way to differentiate its loss, and the arithmetic of its layers."""

    def __init__(
        self,
        model: Any,
        batch: dict[str, Tensor],
        arithmetic: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
        *,
        own_loss: bool = False,
    ) -> None:
        self.model, self.batch, self._arithmetic = model.train(), batch, arithmetic
        token_loss = TokenLoss(model)
        targets = batch["labels"][:, 1:].numel()
        self.backward: Callable[[], Any] = lambda: token_loss.backward(batch, targets)
        if own_loss:
            self.backward = lambda: model(**batch).loss.backward()
        self._adamw: dict[nn.Parameter, torch.optim.Optimizer] = {}

    def seconds(self) -> float:
        """Of forward, backward and an optimizer step."""
        with self._arithmetic(self.model):
            parameters = [p for p in self.model.parameters() if p.requires_grad]
            # Gates are new in every block; an adapter's AdamW keeps its moments.
            optimizer: torch.optim.Optimizer | None = None
            if self._arithmetic is Gates:
                optimizer = torch.optim.SGD(parameters, lr=1.0)
            elif parameters:
                optimizer = self._adamw.setdefault(
                    parameters[0], torch.optim.AdamW(parameters, lr=1e-4)
                )
            started = time.perf_counter()
            self.backward()
            if optimizer is not None:
                optimizer.step()
            self.model.zero_grad()
            return time.perf_counter() - started

    def held_bytes(self) -> int:
        """The most that is alive when the gradient reaches a chunk of logits."""
        held = 0

        def watch(head: nn.Module, inputs: Any, logits: Tensor) -> None:
            def note(gradient: Tensor) -> None:
                nonlocal held
                held = max(held, alive.now)

            if logits.requires_grad:
                logits.register_hook(note)

        handle = self.model.get_output_embeddings().register_forward_hook(watch)
        with self._arithmetic(self.model), Alive() as alive:
            self.backward()
        handle.remove()
        self.model.zero_grad()
        return held


def variants() -> dict[str, Variant]:
    """Everything that is compared, each with a model of its own."""
    torch.manual_seed(0)
    ids = torch.randint(int(SHAPE["vocab_size"]), (BATCH, LENGTH))
    batch = {"input_ids": ids, "labels": ids}

    def base() -> Any:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(**SHAPE))

    def adapted(dropout: float = 0.0) -> Any:
        model = base()
        names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        settings = LoraSettings(r=32, alpha=64, dropout=dropout)
        model = Lora().attach(model, names, settings, seed=0)
        for layer in lora_layers(model).values():
            nn.init.normal_(layer.lora_B["default"].weight, std=0.01)
        return model

    floor = base().requires_grad_(False)
    floor.enable_input_require_grads()
    return {
        "stage1": Variant(adapted(), batch, as_trained),
        "stage2": Variant(adapted(), batch, Gates),
        "stage1_by_peft": Variant(adapted(), batch),
        "stage1_dropout_0.1": Variant(adapted(0.1), batch, as_trained),
        "stage1_dropout_0.1_by_peft": Variant(adapted(0.1), batch),
        "stock_peft": Variant(adapted(), batch, own_loss=True),
        "floor": Variant(floor, batch),
    }


def measure(rounds: int, deadline: float) -> dict[str, Any]:
    compared = variants()
    held = {name: variant.held_bytes() for name, variant in compared.items()}
    for variant in compared.values():
        variant.seconds()
    seconds: dict[str, list[float]] = {name: [] for name in compared}
    for _ in range(rounds):
        if time.monotonic() > deadline:
            break
        for name, variant in compared.items():
            seconds[name].append(variant.seconds())
    table = {}
    for name, values in seconds.items():
        ratios = [a / b for a, b in zip(values, seconds["stage1"], strict=True)]
        table[name] = {
            "ms_median": 1000 * statistics.median(values),
            "over_stage1_time": statistics.median(ratios),
            "over_stage1_time_quartiles": statistics.quantiles(ratios, n=4)[::2],
            "held_mib": held[name] / 2**20,
            "over_stage1_bytes": held[name] / held["stage1"],
        }
    return {
        "stage2_over_stage1_time": table["stage2"]["over_stage1_time"],
        "stage2_over_stage1_saved_bytes": table["stage2"]["over_stage1_bytes"],
        "rounds": len(seconds["stage1"]),
        "variants": table,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="15 rounds, or what 8 minutes allow")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    deadline = time.monotonic() + (480 if args.quick else 24 * 3600)
    result = measure(15 if args.quick else args.rounds, deadline)
    if args.json:
        print(json.dumps(recorded(result, TOLERANCE), indent=1))
        return
    print(f"{'':27}{'ms':>7}  time / stage 1 (quartiles)  held MiB  bytes / stage 1")
    for name, row in result["variants"].items():
        low, high = row["over_stage1_time_quartiles"]
        print(
            f"{name:27}{row['ms_median']:7.0f}  {row['over_stage1_time']:5.3f} "
            f"({low:.3f}-{high:.3f}){'':12}{row['held_mib']:8.1f}  {row['over_stage1_bytes']:.3f}"
        )


if __name__ == "__main__":
    main()
