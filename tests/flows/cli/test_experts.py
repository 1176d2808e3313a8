"""A mixture of experts on one line: from plan to a merged model; what is refused before it."""

from __future__ import annotations

import json

import pytest
import torch

from tests.conftest import ROOT

DEMO = ROOT / "ila_core" / "demo"
PROFILE = """\
model: {base}
datasets: [{rows}]
search:
  schedules: {{rows: {{lr: 1.0e-3, steps: 4}}}}
  stage1: {{lora: {{r: 4}}, optimizer: {{batch_size: 8}}}}
  stage2: {{batches: 2, batch_size: 8}}
  evidence: {{scorers: [size], random_orders: 2, held_out: 8, fractions: [0.5]}}
finetune:
  lora: {{lr: 1.0e-3, steps: 3, r: 4}}
  adalora: {{every: 1}}
  full: {{lr: 1.0e-3, steps: 3}}
  optimizer: {{batch_size: 8}}
  watch: [0.5]
  arms:
  - {{name: all, policy: all}}
  - {{name: ila, policy: ila, source: rows}}
  - {{name: random, policy: freeze_random, like: ila}}
  - {{name: full, policy: ila, source: rows, method: full}}
"""
WITHOUT = "model.exclude=['.*[.]experts[.].*']"
TENSOR = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Mixtral with the demo's tokenizer, and a hundred conversations."""
    from transformers import AutoTokenizer, MixtralConfig, MixtralForCausalLM

    folder = tmp_path_factory.mktemp("moe")
    tokenizer = AutoTokenizer.from_pretrained(DEMO / "base")
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2,
        max_position_embeddings=512, tie_word_embeddings=False,
        **{f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos")},
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    lines = (DEMO / "data" / "instruct.jsonl").read_text().splitlines(keepends=True)
    (folder / "rows.jsonl").write_text("".join(lines[:100]))
    profile = PROFILE.format(base=folder / "base", rows=folder / "rows.jsonl")
    (folder / "moe.yaml").write_text(profile)
    return folder


def test_a_plan_says_what_share_of_the_weights_its_layers_are(ila, folder):
    line = ("--model", str(folder / "base"), "--data", str(folder / "rows.jsonl"))
    assert "base: 13 layers with 99.7% of its matrix weights, " in ila("plan", *line)
    found = ila.json("plan", *line, "--resolved")["profile"]
    assert found["search"]["stage1"]["lora"]["dropout"] == 0
    assert found["finetune"]["lora"]["dropout"] == 0
    dense = ila.json("plan", "--model", "demo", "--data", str(folder / "rows.jsonl"), "--resolved")
    assert dense["profile"]["finetune"]["lora"]["dropout"] == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.stage1.lora.dropout=0.1", "search.stage1.lora.dropout: given 0.1, but PEFT"),
        ("finetune.lora.dropout=0.1", "finetune.lora.dropout: given 0.1, but PEFT adapts"),
        ("finetune.method=adalora", "method: given 'adalora', but of all methods lora and full"),
        ("finetune.method=qlora", "method: given 'qlora', but of all methods lora and full"),
        ("search.scorer=lora_drop", "scorer: given 'lora_drop', but it reads the input of every"),
    ],
)
def test_what_cannot_be_done_with_experts_is_refused_in_plan(ila, folder, override, message):
    said = " ".join(ila("plan", str(folder / "moe.yaml"), "--set", override, expect=2).split())
    assert message in said
    assert TENSOR in said and "exclude:" in said
    ila("plan", str(folder / "moe.yaml"), "--set", override, "--set", WITHOUT)


@pytest.mark.parametrize("more", [(), ("--set", WITHOUT)])
def test_memory_is_not_forecast_whatever_is_excluded(ila, folder, more):
    limit = ("--set", "finetune.arms.1.memory=1000000")
    said = ila("plan", str(folder / "moe.yaml"), *limit, *more, expect=2)
    assert "model base has experts, and how much memory and time" in said
    assert "give a limit in layers or parameters (keep, layers, parameters)" in said


@pytest.mark.slow
def test_a_whole_run_of_a_mixture_of_experts(ila, folder, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    profile = str(folder / "moe.yaml")
    ila("run", profile)
    verified = ila.json("verify", profile)
    assert {c["target"]: c["holds"] for c in verified} == {
        f"{arm} seed 0": True for arm in ("all", "ila", "random", "full")
    }
    steps = {s["step"]: s["key"] for s in ila.json("plan", profile)["steps"]}
    key = f"key:{steps['ranking']}"
    chosen = ("--policy", "ila", "--source", "rows", "--keep", "0.75")
    ila("export", key, "--to", "peft", *chosen, "--out", str(tmp_path / "peft"))
    assert (
        TENSOR
        in json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["target_parameters"]
    )
    ila("verify", str(tmp_path / "peft"), "--ranking", key, *chosen)
    asked = ("--source", "rows", "--keep", "0.75", "--out", str(tmp_path / "it"))
    said = ila("finetune", profile, *asked)
    assert "10 of 10 layers" in said and "memory" in said and "forecast" not in said
    ila("merge", profile, f"key:{steps['finetune ila seed 0']}", "--out", str(tmp_path / "merged"))

    ids = torch.arange(20)[None]
    (adapter,) = (tmp_path / "it").rglob("adapter_config.json")
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    models = [
        PeftModel.from_pretrained(base, adapter.parent),
        AutoModelForCausalLM.from_pretrained(tmp_path / "merged"),
    ]
    with torch.no_grad():
        by_peft, merged = (model.eval()(ids).logits for model in models)
    assert torch.allclose(by_peft, merged, atol=1e-5)
