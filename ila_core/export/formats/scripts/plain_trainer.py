"""Train the adapter that adapter_config.json describes, with transformers.Trainer.

TRL's SFTTrainer refuses an adapter on lm_head; this trains one. The data is JSON Lines with
`messages`; the loss is on the assistant's messages only.

    python train.py --data conversations.jsonl --out trained
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

IGNORED = -100


def main() -> None:
    options = parse()
    config = LoraConfig.from_pretrained(str(Path(__file__).parent))
    base = options.model or config.base_model_name_or_path
    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if options.template:
        tokenizer.chat_template = Path(options.template).read_text(encoding="utf-8")
    if tokenizer.chat_template is None:
        raise SystemExit(f"{base} has no chat template: give --template FILE.jinja")
    names = sorted(config.target_modules)  # PEFT shortens them once it has found them
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    expect(model, names)
    model.print_trainable_parameters()
    lines = Path(options.data).read_text(encoding="utf-8").splitlines()
    rows = [tokens(tokenizer, json.loads(line)["messages"], options.max_length) for line in lines]
    arguments = TrainingArguments(
        output_dir=options.out,
        learning_rate=options.lr,
        num_train_epochs=options.epochs,
        per_device_train_batch_size=options.batch_size,
        logging_steps=10,
        save_strategy="no",
        report_to=[],
    )
    collator = DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=IGNORED)
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator).train()
    # Else PEFT stores the base's own lm_head beside the adapter on it.
    model.save_pretrained(options.out, save_embedding_layers=False)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the adapter of adapter_config.json.")
    parser.add_argument("--data", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", help="by default the base that adapter_config.json names")
    parser.add_argument("--template", help="a Jinja chat template, where the tokenizer has none")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--max-length", type=int, default=1024)
    return parser.parse_args()


def expect(model: Any, names: list[str]) -> None:
    """Raise for a name that matches no module, which PEFT would ignore."""
    adapted = {n.removesuffix(".lora_A") for n, _ in model.base_model.model.named_modules()}
    missing = [name for name in names if name not in adapted]
    if missing:
        raise SystemExit(f"the base model has no layer {', '.join(missing)}")


def tokens(tokenizer: Any, messages: list[dict[str, str]], longest: int) -> dict[str, list[int]]:
    """Return input ids, and labels that are -100 outside the assistant's messages."""
    ids: list[int] = []
    labels: list[int] = []
    for end, message in enumerate(messages, start=1):
        speaks = message["role"] == "assistant"
        text = tokenizer.apply_chat_template(
            messages[:end],
            tokenize=False,
            # Before an answer, its header belongs to the prompt.
            add_generation_prompt=not speaks and messages[end : end + 1] != [],
        )
        # A turn's tokens are what it adds to those before it.
        upto = tokenizer(text, add_special_tokens=False)["input_ids"]
        labels += upto[len(ids) :] if speaks else [IGNORED] * (len(upto) - len(ids))
        ids = upto
    return {"input_ids": ids[:longest], "labels": labels[:longest]}


if __name__ == "__main__":
    main()
