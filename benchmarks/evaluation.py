"""What evaluating a base and four adapters costs beside five `lm_eval` processes on merged models.

    python benchmarks/evaluation.py --quick --json     # 5 questions a task; needs ILA_REAL_DATA

Same rows, same batch size, start-up included and printed apart. Ours is one `ila evaluate`; theirs
is `lm_eval --include_path` on the same task files, once per model. Both answer every question, and
their predictions are compared. The adapters are LoRA of rank 8 with seeded random updates: what an
evaluation costs does not depend on what was learnt.

Beside that, in one process: our scoring and lm-eval's of the same 5-shot prompts with a model of
random weights whose context of 4,096 tokens keeps every prompt whole, so that the few-shot prefix
of a subject is read once.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from record import Tolerance, recorded

from ila_core.compare.results import Evaluation
from ila_core.config import LoraMethod, RuntimeConfig
from ila_core.config.load import load_profile

PROFILE = "stories3m-real"
TASKS = {"mmlu": "ila_mmlu", "hellaswag": "ila_hellaswag"}
TOLERANCE = 1e-3
"""Nats between the two best answers below which float32 may order them either way."""
ALLOWED: Tolerance = {
    "*seconds": (0.5, 0.0),
    "*startup": (0.5, 0.0),
    "*over*": (0.2, 0.0),
    "*worst": (0.0, TOLERANCE),
    "*": (0.0, 0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 questions a task")
    parser.add_argument("--limit", type=int, help="questions a task")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    limit = args.limit or (5 if args.quick else None)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), limit, args.batch)
    result["prefix"] = shared_prefix(args.batch, 2 if args.quick else 5)
    if args.json:
        print(json.dumps(recorded(result, ALLOWED), indent=1))
        return
    for who in ("ours", "lm_eval"):
        found = result[who]
        print(f"{who:8} {found['seconds']:7.1f} s, of which start-up {found['startup']:.1f} s")
    print(f"evaluation_over_five_lm_eval_runs {result['evaluation_over_five_lm_eval_runs']:.2f}")
    print(f"questions {result['questions']}, other predictions {result['differing']}, "
          f"of these undecided within {TOLERANCE} nats {result['undecided']}, "
          f"log-likelihoods differ by at most {result['worst']:.1e}")  # fmt: skip
    print(f"5-shot prompts kept whole (context 4,096): {result['prefix']}")


def measure(folder: Path, limit: int | None, batch: int) -> dict[str, Any]:
    """Both ways over the same models."""
    environment = {
        **os.environ,
        "ILA_HOME": str(folder / "ila"),
        "ILA_EVAL_BATCH": str(batch),
        "HF_DATASETS_CACHE": str(folder / "datasets"),
        "HF_HUB_OFFLINE": "1",
    }
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        environment.pop(name, None)
    merged = make_models(folder)
    adapters = [str(folder / name) for name in merged if name != "base"]
    command = [sys.executable, "-m", "flows.cli.app", "evaluate", "base", *adapters]
    command += ["--profile", PROFILE, "--benchmarks", ",".join(TASKS), "--json"]
    command += [] if limit is None else ["--limit", str(limit)]
    start = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    steps = re.findall(r"^(?:mmlu|hellaswag) .*?([\d.]+) s ", done.stderr, re.MULTILINE)
    evaluating = sum(map(float, steps))
    ours = {"seconds": seconds, "startup": seconds - evaluating}
    theirs = {"seconds": 0.0, "startup": 0.0}
    answers = {}
    for name, model in merged.items():
        out = folder / "lm_eval" / name
        total, before = lm_eval(
            model, folder / "ila" / "benchmarks", out, limit, batch, environment
        )
        theirs["seconds"] += total
        theirs["startup"] += before
        answers[name] = read_samples(out)
    return {
        "limit": limit,
        "batch": batch,
        "evaluation_over_five_lm_eval_runs": ours["seconds"] / theirs["seconds"],
        "ours": ours,
        "lm_eval": theirs,
        **compare(json.loads(done.stdout)["evaluations"], answers, folder / "ila"),
    }


def make_models(folder: Path) -> dict[str, Path]:
    """The base and four adapters, each merged into a folder of its own."""
    import torch

    from ila_core.models.loading import load_base, load_tokenizer
    from ila_core.train.merge import merged
    from ila_core.train.methods import METHODS
    from ila_core.train.methods.lora import lora_layers

    config = load_profile(PROFILE).model
    settings = LoraMethod(lr=1e-3, steps=1, r=8, alpha=16, dropout=0.0)
    tokenizer, found = load_tokenizer(config), {}
    for number, name in enumerate(("base", "first", "second", "third", "fourth")):
        model = load_base(config, "cpu")
        if name != "base":
            layers = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
            tuned = METHODS["lora"].prepare(model, layers, settings, seed=number, steps=1).model
            generator = torch.Generator().manual_seed(number)
            for layer in lora_layers(tuned).values():
                weight = layer.lora_B["default"].weight
                weight.data = 0.02 * torch.randn(weight.shape, generator=generator)
            payload = folder / "payloads" / name
            METHODS["lora"].save(tuned, payload / "adapter", None)
            shutil.copytree(payload / "adapter", folder / name)
            model, _ = merged(load_base(config, "cpu"), "lora", payload)
        out = folder / "merged" / name
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        found[name] = out
    return found


def lm_eval(
    model: Path, tasks: Path, out: Path, limit: int | None, batch: int, environment: dict[str, str]
) -> tuple[float, float]:
    """Seconds of one `lm_eval` process, and of these before it read its first prompt."""
    (mmlu,), (hellaswag,) = tasks.glob("mmlu-*"), tasks.glob("hellaswag-*")
    include = out.parent / "tasks"
    if not include.exists():
        for source in (mmlu, hellaswag):
            shutil.copytree(source, include, dirs_exist_ok=True)
    command = [str(Path(sys.executable).with_name("lm_eval")), "--model", "hf", "--device", "cpu"]
    command += ["--model_args", f"pretrained={model},dtype=float32", "--tasks"]
    command += [",".join(TASKS.values()), "--include_path", str(include)]
    command += ["--batch_size", str(batch), "--log_samples", "--output_path", str(out)]
    command += [] if limit is None else ["--limit", str(limit)]
    start, before = time.perf_counter(), 0.0
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if "Running loglikelihood requests" in line and not before:
                before = time.perf_counter() - start
    if process.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{''.join(said)}")
    return time.perf_counter() - start, before


def read_samples(out: Path) -> dict[str, list[float]]:
    """Question, named as ours are, to the log-likelihoods of its answers."""
    found = {}
    for path in out.glob("*/samples_*.jsonl"):
        task = re.fullmatch(r"samples_ila_(.+?)_\d{4}-.*\.jsonl", path.name)
        assert task is not None, path
        for line in path.read_text(encoding="utf-8").splitlines():
            sample = json.loads(line)
            number = f"{task[1].removeprefix('mmlu_')}/{sample['doc_id']}"
            found[number] = [float(answer[0][0]) for answer in sample["resps"]]
    return found


def compare(
    ours: list[dict[str, Any]], theirs: dict[str, dict[str, list[float]]], home: Path
) -> dict[str, Any]:
    """Predictions of both, question by question."""
    from tasks.cache.lookup import open_lookup
    from tasks.cache.payloads import fetch

    runtime = RuntimeConfig(home=home, tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    lookup = open_lookup(runtime)
    questions = differing = undecided = 0
    worst = 0.0
    for evaluation in ours:
        (run,) = lookup.finished(evaluation["key"])
        for item in Evaluation.load(fetch(run, home) / "evaluation.json").items:
            a, b = item.log_likelihoods, theirs[evaluation["model"]][item.id]
            worst = max(worst, *(abs(x - y) for x, y in zip(a, b, strict=True)))
            questions += 1
            if a.index(max(a)) != b.index(max(b)):
                differing += 1
                best, second = sorted(b)[:-3:-1]
                undecided += best - second < TOLERANCE
    return {
        "questions": questions,
        "differing": differing,
        "undecided": undecided,
        "worst": worst,
    }


def shared_prefix(batch: int, limit: int) -> dict[str, Any]:
    """Seconds of scoring 5-shot MMLU prompts that a context keeps whole, ours and lm-eval's."""
    import logging

    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import LlamaConfig, LlamaForCausalLM

    from ila_core.evaluate.lm_eval_tasks import MMLU, read_mmlu, write_mmlu
    from ila_core.evaluate.multiple_choice import QuestionSet
    from ila_core.inference.likelihood import log_likelihoods
    from ila_core.models.loading import load_tokenizer

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    profile = load_profile(PROFILE)
    tokenizer = load_tokenizer(profile.model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=4096,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    assert profile.evaluate.mmlu.path is not None
    with tempfile.TemporaryDirectory() as folder:
        write_mmlu(Path(folder), 5, read_mmlu(Path(profile.evaluate.mmlu.path), 5), None)
        questions = QuestionSet.open(Path(folder), MMLU, limit)
    asked = questions.ask(model, tokenizer, "random")
    flat = [c for question in asked for c in question.continuations]
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch)
    requests = [(("", ""), list(c.inputs), list(c.targets)) for c in flat]
    # Theirs takes the context apart from its one-token answer, ours holds what is read.
    assert all(len(c.targets) == 1 for c in flat)
    start = time.perf_counter()
    own = log_likelihoods(model, flat, batch=batch)
    middle = time.perf_counter()
    theirs = [value for value, _ in lm._loglikelihood_tokens(requests, disable_tqdm=True)]
    end = time.perf_counter()
    return {
        "prompts": len(asked),
        "cut": sum(question.cut for question in asked),
        "ours_over_lm_eval": (middle - start) / (end - middle),
        "worst": max(abs(a - b) for a, b in zip(own, theirs, strict=True)),
    }


if __name__ == "__main__":
    main()
