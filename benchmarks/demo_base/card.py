"""The model card of the demo's base, made of what `pretrain` wrote into `training.json`.

`python -m benchmarks.demo_base.card DIR` writes DIR/README.md again.
"""

import json
import sys
from pathlib import Path
from typing import Any

_CARD = """\
---
license: apache-2.0
language: en
library_name: transformers
---

# The demo's base

A very small text model in the Llama architecture, trained from nothing by this project, on text
that this project's own generator wrote. It knows one invented world: its people, towns, animals,
tools, prices and recipes. It tells short stories, adds small numbers and answers about what it just
read. It exists so that a search for important layers can be shown, and tested, in minutes on a
laptop with no GPU and no network. It is of no other use, and it has never seen a real text.

| | |
|---|---|
| architecture | `LlamaForCausalLM`, 6 blocks, hidden 128, feed-forward 384, 4 heads |
| linear layers | 43 (seven in each block, and `lm_head`); embeddings are not tied |
| parameters | {parameters:,}, float32 |
| context | 512 tokens |
| tokenizer | byte-level BPE, 1,024 entries, single digits, trained on the same generator |
| training text | {documents:,} generated documents, each drawn anew |
| tokens seen | {tokens:,} in {step:,} steps of 8 rows of 512 |
| optimizer | AdamW, learning rate 3e-3: 200 steps of warm-up, constant, 35 % decay to 0 |
| seed | {seed} |
| time | {minutes:.0f} minutes on a machine with 2 CPU cores, which it had to share |
| training loss, mean of the last 200 steps | {train:.4f} |
| held-out loss at the start | {first:.4f} |
| held-out loss after two minutes (step {early_step}) | {early:.4f} |
| **held-out loss at the end** | **{last:.4f}** |

Losses are in nats per token; held-out text is another seed of the same generator, which no step
trained on (the first 64 rows of 512 tokens of the stream `held-out`). The whole curve is in
`training.json`.

## Chat format

The markers `<|user|>` and `<|assistant|>` are single tokens that pretraining never showed the
model: conversations are what fine-tuning is there to teach. `tokenizer.apply_chat_template` renders

    <|user|>{{question}}<|assistant|>{{answer}}</s>

and marks the answer with its end token for the loss.

## Make it again

    python -m benchmarks.demo_base.pretrain --out DIR --steps {step} --seed {seed}

The text is the same to the byte on every machine; the weights are equal only up to the rounding of
the machine's arithmetic, so expect the same losses to about two digits, not the same file.
"""


def card(facts: dict[str, Any]) -> str:
    first, last = facts["curve"][0], facts["curve"][-1]
    early = facts["two_minutes"]
    return _CARD.format(
        **{k: facts[k] for k in ("parameters", "documents", "tokens", "step", "seed", "train")},
        minutes=facts["wall"] / 60,
        first=first[2],
        last=last[2],
        early_step=early[0],
        early=early[2],
    )


def main() -> None:
    folder = Path(sys.argv[1])
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    (folder / "README.md").write_text(card(facts), encoding="utf-8")


if __name__ == "__main__":
    main()
