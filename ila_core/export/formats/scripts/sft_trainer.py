"""Train a selection with TRL's SFTTrainer: by adapter_config.json, or in full by frozen.json.

The data is JSON Lines with `messages`.

    python train.py --data conversations.jsonl --out trained
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from datasets import load_dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

HERE = Path(__file__).parent


def main() -> None:
    options = parse()
    adapter: LoraConfig | None = None
    frozen: list[str] = []
    if (HERE / "frozen.json").exists():
        given = json.loads((HERE / "frozen.json").read_bytes())
        base, frozen = given["base"], given["frozen"]
    else:
        adapter = LoraConfig.from_pretrained(str(HERE))
        base = adapter.base_model_name_or_path
    model = AutoModelForCausalLM.from_pretrained(options.model or base)
    expect(model, frozen if adapter is None else list(adapter.target_modules))
    freeze(model, frozen)
    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(
            output_dir=options.out,
            learning_rate=options.lr,
            num_train_epochs=options.epochs,
            per_device_train_batch_size=options.batch_size,
        ),
        train_dataset=load_dataset("json", data_files=options.data, split="train"),
        peft_config=adapter,
    )
    trainer.train()
    trainer.save_model(options.out)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the selection that lies beside this.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", help="by default the base that the selection names")
    parser.add_argument("--lr", type=float, default=2e-5)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    return parser.parse_args()


def expect(model: Any, names: list[str]) -> None:
    """Raise for a name that matches no module, which would otherwise be ignored."""
    missing = sorted(set(names) - {name for name, _ in model.named_modules()})
    if missing:
        raise SystemExit(f"the base model has no layer {', '.join(missing)}")


def freeze(model: Any, names: list[str]) -> None:
    """Freeze these layers' weights and biases, and nothing else."""
    for name in names:
        model.get_submodule(name).requires_grad_(False)


if __name__ == "__main__":
    main()
