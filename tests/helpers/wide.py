"""`smoke` on one dataset with every block of a profile filled in, for tests that go by fields."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ila_core.config import Profile
from ila_core.config.load import load_profile

DATASET = "instruct"
ALL_BENCHMARKS = (
    *("held_out_loss", "general_text", "instructions", "mmlu", "hellaswag", "vicuna", "mt_bench"),
)


def wide_profile(folder: Path) -> Profile:
    """The profile, with files of our own wording in `folder`. Nothing in it is long."""
    tree = load_profile("smoke").model_dump()
    (dataset,) = tree["datasets"] = [d for d in tree["datasets"] if d["name"] == DATASET]
    rows = Path(dataset["source"]).read_text().splitlines(keepends=True)
    dataset["source"] = str(folder / "rows.jsonl")
    (folder / "rows.jsonl").write_text("".join(rows[:150]))
    search, finetune, evaluate = tree["search"], tree["finetune"], tree["evaluate"]
    search["datasets"] = [DATASET]
    search["schedules"] = {DATASET: {"lr": 2e-3, "epochs": 0.15, "steps": None}}
    search["stage1"]["stability"] |= {"window": 1, "patience": 1, "epsilon": 1e-9}
    search["stage1"]["ranking_stop"]["patience"] = 1
    search["stage1"]["milestones"] = [0.5]
    search["evidence"] |= {"held_out": 4, "scorers": ["integrated_gradients"]}
    search["control"]["seeds"] = [0]
    finetune["other_datasets"] = []
    finetune["lora"] |= {"lr": 1e-3, "steps": 2}
    for method in ("qlora", "adalora", "full"):
        finetune[method] |= {"lr": 1e-3, "epochs": 0.1, "steps": None}
    finetune["arms"] = [
        _arm("all", "all"),
        _arm("ila", "ila", source=DATASET, keep=0.5),
        _arm("vote", "vote", votes=1),
        _arm("random", "freeze_random", like="ila"),
        _arm("fast", "ila", source=DATASET, seconds=60, flops_per_second=1e9, micro_batch=2),
        *(_arm(method, "all", method=method) for method in ("qlora", "adalora", "full")),
    ]
    points = {m: {"lr": [1e-3], "epochs": [0.1]} for m in ("qlora", "adalora", "full")}
    points["lora"] = {"lr": [1e-3], "steps": [2]}  # the profile's own: nothing more to train
    finetune["tune"] = {"arms": ["all", "qlora", "adalora", "full"], **points}
    evaluate |= {
        "benchmarks": ["held_out_loss"],
        "mmlu": {"path": str(folder / "mmlu"), "shots": 1},
        "hellaswag": {"path": str(folder / "stories.jsonl"), "shots": 1},
        "vicuna": {"questions": str(folder / "vicuna.jsonl")},
        "mt_bench": {
            "questions": str(folder / "mt_bench.jsonl"),
            "references": str(folder / "references.jsonl"),
        },
        "generation": {"max_new_tokens": 2, "temperature": "by_category", "seed": 0},
        "judge": {"kind": "local", "model": "demo"},
        "general_text": {"path": None, "texts": 2, "tokens": 8, "seed": 0},
    }
    _write_benchmarks(folder)
    return Profile.model_validate(tree)


def leaves(model: type[BaseModel] = Profile, prefix: str = "") -> Iterator[str]:
    """Every field of a configuration that holds no other one, dotted.

    Items of a list and values of a dictionary go by the field that they are in: all datasets'
    paths are `datasets.path`.
    """
    for name, field in model.model_fields.items():
        inner = _models_in(field.annotation)
        if not inner:
            yield prefix + name
        for one in inner:
            yield from leaves(one, f"{prefix}{name}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in getattr(annotation, "__args__", ()) for m in _models_in(inner)]


def _arm(name: str, policy: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "policy": policy, **fields}


def _write_benchmarks(folder: Path) -> None:
    for split in ("dev", "test"):
        (folder / "mmlu" / split).mkdir(parents=True)
        rows = '"Which is it, one?",a,b,c,d,A\n"Which is it, two?",a,b,c,d,B\n'
        (folder / "mmlu" / split / f"anatomy_{split}.csv").write_text(rows)
    story = {"activity_label": "Skiing", "endings": ["a cat", "a dog", "he", "it"]}
    lines = [json.dumps(story | {"ctx": f"He is {n}. It", "label": n}) for n in range(3)]
    (folder / "stories.jsonl").write_text("\n".join(lines))
    for name in ("vicuna", "mt_bench"):
        asked = {"question_id": 1, "category": "generic", "turns": ["Why?"]}
        (folder / f"{name}.jsonl").write_text(json.dumps(asked))
    answer = {"question_id": 1, "choices": [{"turns": ["Because."]}]}
    (folder / "references.jsonl").write_text(json.dumps(answer))
