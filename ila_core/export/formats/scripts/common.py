"""What both forms of train.py share: the search's own rows, and the model as it was searched.

The rows are made by the search's own code, which lies in ila_rows/, with what rendering.json says:
the chat template, what it is told, and the length at which rows are cut.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ila_core.data.chat_template import Renderer
from ila_core.data.conversations import Conversations
from ila_core.data.loss_mask import learned_tokens
from ila_core.data.token_rows import token_rows
from ila_core.errors import UserError

HERE = Path(__file__).parents[1]
"""The folder of train.py."""
BFLOAT16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
"""Whether matrices are multiplied in bfloat16; what trains is kept in float32 all the same."""


@dataclass(frozen=True)
class HowRead:
    """Which field of a row holds what, where its name does not say."""

    columns: dict[str, str] = field(default_factory=dict)
    answer: str | None = None
    max_bad: float = 0.01


def parse(description: str, lr: float) -> argparse.Namespace:
    rendering = json.loads((HERE / "rendering.json").read_bytes())
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--data", required=True, nargs="+", type=Path)
    parser.add_argument("--out", required=True)
    parser.add_argument("--model", help="by default the base that the selection names")
    parser.add_argument("--template", help="a Jinja chat template instead of the search's")
    parser.add_argument("--column", action="append", default=[], metavar="user=FIELD")
    parser.add_argument("--answer", choices=["chosen"], help="learn what preference pairs prefer")
    parser.add_argument("--max-length", type=int, default=rendering["max_length"])
    parser.add_argument("--lr", type=float, default=lr)
    parser.add_argument("--epochs", type=float, default=1)
    parser.add_argument("--steps", type=int, default=-1, help="instead of --epochs")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], help=DTYPE)
    options = parser.parse_args()
    options.variables = rendering["template_variables"]
    options.source = rendering["template"]
    if options.template:
        options.source = Path(options.template).read_text(encoding="utf-8")
    return options


DTYPE = (
    "in which the base is loaded: by default its own for an adapter (whose weights are float32 in "
    "any case), and float32 in full: a bfloat16 weight has no place for most small steps"
)


def arguments(options: argparse.Namespace) -> dict[str, Any]:
    """What transformers' TrainingArguments and TRL's SFTConfig take."""
    return {
        "output_dir": options.out,
        "learning_rate": options.lr,
        "num_train_epochs": options.epochs,
        "max_steps": options.steps,
        "per_device_train_batch_size": options.batch_size,
        "bf16": BFLOAT16,
        "logging_steps": 10,
        "save_strategy": "no",
        "report_to": [],
    }


def tokenizer_and_rows(
    options: argparse.Namespace, base: str, revision: str | None
) -> tuple[Any, list[dict[str, list[int]]]]:
    """Return the tokenizer, with the chat template, and rows of `input_ids` and `labels`."""
    columns = dict(entry.split("=", 1) for entry in options.column)
    try:
        tokenizer = AutoTokenizer.from_pretrained(base, revision=revision)
        renderer = Renderer(tokenizer, options.source, options.variables)
        given = Conversations("data", options.data, HowRead(columns, options.answer))
        rows = rows_of(given, renderer, options.max_length)
    except UserError as error:
        raise SystemExit(str(error)) from error
    tokenizer.chat_template = renderer.stored_template
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer, rows


def rows_of(
    given: Conversations, renderer: Renderer, max_length: int | None
) -> list[dict[str, list[int]]]:
    """Make every row of the conversations that has something to learn."""
    rows = []
    for _, found in token_rows(given, renderer):
        if isinstance(found, UserError):
            given.left_out[str(found).splitlines()[0]] += 1
            continue
        for whole in found:
            row = whole if max_length is None else whole.cut(max_length)
            if learned_tokens(row.labels):
                rows.append({"input_ids": row.input_ids.tolist(), "labels": row.labels.tolist()})
            else:
                given.left_out["nothing left after truncation"] += 1
    said = given.counts()
    print(f"{len(rows)} rows of {said['given']}; left out: {said['dropped'] or 'none'}; cannot be "
          f"read: {said['unreadable']}; fields ignored: {said['ignored'] or 'none'}")  # fmt: skip
    for problem in given.unreadable[:3]:
        print(problem)
    if not rows:
        raise UserError("no row has anything to learn")
    return rows


def load_model(options: argparse.Namespace, base: str, revision: str | None, full: bool) -> Any:
    """Load the base."""
    dtype = options.dtype or ("float32" if full else "auto")
    return AutoModelForCausalLM.from_pretrained(base, revision=revision, dtype=dtype)


def untie(model: Any, names: list[str]) -> None:
    """Give an output head that is a layer, and shares the input embedding, a copy of its own."""
    head = model.get_output_embeddings()
    name = next((n for n, module in model.named_modules() if module is head), None)
    if name not in names or head.weight is not model.get_input_embeddings().weight:
        return
    head.weight = torch.nn.Parameter(head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=True)


def layers_of(adapter: Any) -> list[str]:
    """The names of the modules, and of the tensors of experts, that PEFT's configuration adapts."""
    return sorted([*adapter.target_modules, *(adapter.target_parameters or [])])


def expect(model: Any, names: list[str]) -> None:
    """Raise for a name of no module and no parameter, which would otherwise be ignored."""
    known = (*model.named_modules(), *model.named_parameters())
    missing = sorted(set(names) - {name for name, _ in known})
    if missing:
        raise SystemExit(f"the base model has no layer {', '.join(missing)}")
