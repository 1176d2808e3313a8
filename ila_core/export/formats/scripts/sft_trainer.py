"""Train a selection with TRL's SFTTrainer: by adapter_config.json, or in full by frozen.json.

The data are files as ILA reads them; what is learned of them is what the search learned: the same
tokens.

    python train.py --data conversations.jsonl --out trained
"""

from __future__ import annotations

import json
from typing import Any

from datasets import Dataset
from peft import LoraConfig
from trl import SFTConfig, SFTTrainer

from ila_core.export.formats.scripts.common import (
    HERE,
    arguments,
    expect,
    layers_of,
    load_model,
    parse,
    tokenizer_and_rows,
    untie,
)


def main() -> None:
    adapter: LoraConfig | None = None
    frozen: list[str] = []
    if (HERE / "frozen.json").exists():
        given = json.loads((HERE / "frozen.json").read_bytes())
        base, revision, frozen = given["base"], given["revision"], given["frozen"]
    else:
        adapter = LoraConfig.from_pretrained(str(HERE))
        base, revision = adapter.base_model_name_or_path, adapter.revision
    full = adapter is None
    options = parse("Train the selection that lies beside this.", lr=2e-5 if full else 2e-4)
    if options.model:
        base, revision = options.model, None
    tokenizer, rows = tokenizer_and_rows(options, base, revision)
    model = load_model(options, base, revision, full=full)
    names = frozen if adapter is None else layers_of(adapter)
    expect(model, names)
    untie(model, names)
    freeze(model, frozen)
    trainer = SFTTrainer(
        model=model,
        # The rows are cut already.
        args=SFTConfig(**arguments(options), max_length=None),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapter,
    )
    check_labels(trainer, rows)
    trainer.train()
    trainer.save_model(options.out)


def freeze(model: Any, names: list[str]) -> None:
    """Freeze these layers' weights and biases, and tensors of experts, and nothing else."""
    parameters = dict(model.named_parameters())
    for name in names:
        layer = parameters[name] if name in parameters else model.get_submodule(name)
        layer.requires_grad_(False)


def check_labels(trainer: SFTTrainer, rows: list[dict[str, list[int]]]) -> None:
    """Raise where this TRL does not learn the labels that it was given."""
    given = [row["labels"] for row in rows]
    batch = trainer.data_collator([trainer.train_dataset[0]])["labels"][0]
    if trainer.train_dataset["labels"][:] != given or batch.tolist() != given[0]:
        raise SystemExit("this TRL makes labels of its own; 1.16 takes those that it is given")


if __name__ == "__main__":
    main()
