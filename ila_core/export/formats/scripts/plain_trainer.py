"""Train the adapter that adapter_config.json describes, with transformers.Trainer.

TRL's SFTTrainer refuses an adapter on lm_head; this trains one. The data are files as ILA reads
them; what is learned of them is what the search learned: the same tokens.

    python train.py --data conversations.jsonl --out trained
"""

from __future__ import annotations

from peft import LoraConfig, get_peft_model
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

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
    options = parse("Train the adapter of adapter_config.json.", lr=2e-4)
    config = LoraConfig.from_pretrained(str(HERE))
    base = options.model or config.base_model_name_or_path
    revision = None if options.model else config.revision
    tokenizer, rows = tokenizer_and_rows(options, base, revision)
    model = load_model(options, base, revision, full=False)
    names = layers_of(config)
    expect(model, names)
    untie(model, names)
    model = get_peft_model(model, config)
    model.print_trainable_parameters()
    Trainer(
        model=model,
        args=TrainingArguments(**arguments(options)),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, label_pad_token_id=-100),
    ).train()
    # Else PEFT stores the base's own lm_head beside the adapter on it.
    model.save_pretrained(options.out, save_embedding_layers=False)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
