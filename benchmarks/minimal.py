"""The paper's Algorithm 1 in one file: LoRA until stable, one gate per layer, the ranking.

    ila search smoke                                  # prepares the rows, and ranks by the pipeline
    python benchmarks/minimal.py --home .ila [--dataset terse] [--json]

This is what the whole project must agree with: torch, transformers and PEFT, and no import from
ILA. It reads two things of it: the token rows that the step `prepare` of the profile `smoke` left
in ILA_HOME (`prepared.safetensors`, the file itself), and the weights of the demo's base model.
The settings are those of `profiles/runs/smoke.yaml`, written out below.

Where the paper leaves a choice open, the same one is made here as in the pipeline, or no number
could be compared: `batches` (the order of the rows), `initial_a` (the draw of A) and `is_stable`.
Everything else is written the plain way: PEFT's own modules, logits of the whole batch, autograd.
"""

import argparse
import hashlib
import json
import math
import random
from pathlib import Path

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

BASE = Path(__file__).parent.parent / "ila_core" / "demo" / "base"
SEED = 0
BATCH = 4  # conversations per step, in both stages

# Stage 1: LoRA with AdamW and a cosine schedule.
RANK, ALPHA = 8, 16
LR, STEPS, WARMUP_RATIO = 2e-3, 8, 0.01
BETAS, WEIGHT_DECAY, MAX_GRAD_NORM = (0.9, 0.99), 0.1, 1.0

# Stable (Definition 1): the mean loss of consecutive windows changes by less than EPSILON.
EPSILON, WINDOW, PATIENCE = 0.5, 2, 2
FLOOR = 0.5  # fraction of STEPS before which nothing counts as stable

# Stage 2: the gates, with plain gradient descent.
GATE_STEPS, GATE_LR, INITIAL_SCORE = 4, 5.0, 0.0

KEEP = 0.75  # fraction of the layers that fine-tuning would train


def read_rows(home, dataset):
    """Token rows by split: pairs of `input_ids` and `labels`, which are -100 outside the loss."""
    found = {}
    for statistics in home.glob("artifacts/*/artifacts/payload/prepared.json"):
        about = json.loads(statistics.read_text())
        if about["dataset"] == dataset:
            found[about["digest"]] = statistics.with_suffix(".safetensors")
    if len(found) != 1:
        raise SystemExit(
            f"{home} holds {len(found)} preparations of the dataset {dataset!r}; one is needed: "
            "give an ILA_HOME in which only smoke has run, and terse, instruct or dialogue"
        )
    (path,) = found.values()
    arrays = load_file(path)

    def rows(split):
        lengths = arrays[f"{split}.offsets"].diff().tolist()
        ids, labels = arrays[f"{split}.input_ids"], arrays[f"{split}.labels"]
        return list(zip(ids.long().split(lengths), labels.long().split(lengths), strict=True))

    return {split: rows(split) for split in ("train", "gate")}


def batches(rows, steps):
    """The rows of each step: epoch after epoch, each shuffled anew, cut into full batches."""
    rng = random.Random(SEED)
    stream = []
    while len(stream) < steps * BATCH:
        stream += rng.sample(range(len(rows)), len(rows))
    for step in range(steps):
        chosen = [rows[i] for i in stream[step * BATCH : (step + 1) * BATCH]]
        ids, labels = zip(*chosen, strict=True)
        # Padded on the right, where a causal model does not look: no attention mask.
        yield (
            nn.utils.rnn.pad_sequence(ids, batch_first=True),
            nn.utils.rnn.pad_sequence(labels, batch_first=True, padding_value=-100),
        )


def loss_of(model, ids, labels):
    """Mean over all tokens of the step that are in the loss, in nats."""
    logits = model(input_ids=ids, use_cache=False).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def initial_a(weight, layer):
    """PEFT's own distribution, drawn by the layer's name and not in the order of the layers."""
    seed = hashlib.sha256(f"{SEED}/{layer}".encode()).digest()[:8]
    generator = torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)
    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def is_stable(losses):
    step = len(losses)
    if step % WINDOW or step < FLOOR * STEPS or step < WINDOW * (PATIENCE + 1):
        return False
    windows = torch.tensor(losses[-WINDOW * (PATIENCE + 1) :]).view(-1, WINDOW).mean(1)
    return bool((windows.diff().abs() < EPSILON).all())


def add_lora(model):
    """The model with an adapter on every linear layer, `lm_head` too, and the modules by name."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=names)
    model = get_peft_model(model, config)
    adapted = {name: model.get_base_model().get_submodule(name) for name in names}
    for name, layer in adapted.items():
        initial_a(layer.lora_A["default"].weight, name)  # B starts at 0
    return model, adapted


def train_lora(model, rows):
    """Stage 1: update A and B until training has become stable. Returns the losses."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LR, betas=BETAS, weight_decay=WEIGHT_DECAY)
    warmup = math.ceil(WARMUP_RATIO * STEPS)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, STEPS)
    losses = []
    for ids, labels in batches(rows, STEPS):
        loss = loss_of(model, ids, labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, MAX_GRAD_NORM)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        if is_stable(losses):
            break
    return losses


def learn_gates(model, adapted, rows):
    """Stage 2 (Eq. 7): freeze A and B, learn s by gradient descent. Returns s and the losses."""
    model.requires_grad_(False)
    scores = {name: nn.Parameter(torch.tensor(INITIAL_SCORE)) for name in adapted}
    for name, layer in adapted.items():
        # B (sigmoid(s) A x) is sigmoid(s) B A x (Eq. 6).
        layer.lora_A["default"].register_forward_hook(
            lambda module, inputs, output, s=scores[name]: torch.sigmoid(s) * output
        )
    optimizer = torch.optim.SGD(scores.values(), lr=GATE_LR)
    losses = []
    for ids, labels in batches(rows, GATE_STEPS):
        loss = loss_of(model, ids, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return {name: s.item() for name, s in scores.items()}, losses


def identify_important_layers(home, dataset):
    """Algorithm 1."""
    rows = read_rows(home, dataset)
    base = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    model, adapted = add_lora(base)
    losses = train_lora(model, rows["train"])
    scores, gate_losses = learn_gates(model, adapted, rows["gate"])
    ranking = sorted(scores, key=scores.get, reverse=True)
    kept = int(KEEP * len(ranking) + 0.5)
    return {
        "dataset": dataset,
        "losses": losses,
        "stable": is_stable(losses),
        "gate_losses": gate_losses,
        "scores": scores,
        "ranking": ranking,
        "frozen": ranking[kept:],
    }


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--home", type=Path, required=True, help="an ILA_HOME with smoke's rows")
    parser.add_argument("--dataset", default="terse", help="terse, instruct or dialogue")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    found = identify_important_layers(args.home, args.dataset)
    if args.json:
        print(json.dumps(found, indent=1))
        return
    print(f"stage 1: {len(found['losses'])} of {STEPS} steps, loss {found['losses'][-1]:.3f}")
    for place, name in enumerate(found["ranking"], start=1):
        verdict = "frozen" if name in found["frozen"] else "trains"
        print(f"{place:3} {name:34} {found['scores'][name]:8.4f}  {verdict}")


if __name__ == "__main__":
    main()
