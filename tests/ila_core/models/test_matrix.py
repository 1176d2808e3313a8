"""Tiny random models of many architectures, from layers to a trained selection: `docs/MODELS.md`.

Each works or is refused with a reason. After a change that is meant, write the table anew:
`python -m tests.ila_core.models.test_matrix`.
"""

from __future__ import annotations

import gc
import random
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ila_core.config import (
    LoraSettings,
    ModelConfig,
    OptimizerSettings,
    Schedule,
    StabilitySettings,
    Stage1Settings,
    Stage2Settings,
)
from ila_core.errors import CheckError, UserError
from ila_core.models.architecture import architecture_config
from ila_core.models.layers import Examined, examine
from tests.conftest import ROOT
from tests.helpers.architectures import EXCLUDE, FIELDS, architecture

DOCUMENT = ROOT / "docs" / "MODELS.md"
LORA = LoraSettings(r=2, alpha=4, dropout=0.0)
OPTIMIZER = OptimizerSettings(batch_size=4, weight_decay=0.0, warmup_ratio=0.0, max_grad_norm=1.0)
STAGE1 = Stage1Settings(
    lora=LORA,
    optimizer=OPTIMIZER,
    stability=StabilitySettings(epsilon=1e-9, window=1, patience=1, floor=1.0, ceiling=1.0),
)
STAGE2 = Stage2Settings(
    rows="gate", batches=1, batch_size=4, initial_score=0, optimizer="sgd", lr=1.0, weight_decay=0,
    schedule="constant", max_grad_norm=0,
)  # fmt: skip
SCHEDULE = Schedule(lr=1e-2, steps=2)


def rows() -> list[Any]:
    from tests.helpers.tiny import Row

    rng = random.Random(0)
    texts = [[rng.randrange(3, 1000) for _ in range(n)] for n in (5, 6, 7, 9, 12, 24, 5, 8)]
    return [Row(text, [-100, -100, *text[2:]]) for text in texts]


def config_of(model_type: str, folder: Path, **fields: Any) -> ModelConfig:
    given: dict[str, Any] = {
        "name": f"tiny-{model_type}", "source": str(folder), "dtype": "float32",
        "architecture": architecture(model_type), "lm_head": "untie", **fields,
    }  # fmt: skip
    tied = architecture_config(ModelConfig.model_validate(given)).tie_word_embeddings
    return ModelConfig.model_validate(given | {"lm_head": "untie" if tied else "adapt"})


def searched(config: ModelConfig, found: Examined, folder: Path) -> None:
    """From two steps of stage 1 to an adapter, exports, their verification and a report."""
    import torch
    from transformers import AutoModelForCausalLM

    from ila_core.models.loading import load_base
    from ila_core.search.gates import learn_gates
    from ila_core.search.stage1 import learn_adapter
    from ila_core.train.selected import train_selected
    from tests.helpers.after_search import check_exports, check_page, ranking_of, selection_of

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(architecture_config(config)).save_pretrained(folder)
    base = load_base(config, "cpu")
    names = [layer.name for layer in found.layers]
    first = learn_adapter(
        base, names, rows(), STAGE1, SCHEDULE, seed=0, adapter_folder=folder / "adapter"
    )
    gates = learn_gates(base, folder / "adapter", rows(), STAGE2, seed=0)
    assert set(gates.scores) == set(names) and len(first.losses) == 2
    ranking = ranking_of(found, gates.scores)
    selection = selection_of(ranking, LORA)
    result, verified, _ = train_selected(
        base, selection.train, rows(), method="lora", settings=LORA, schedule=SCHEDULE,
        optimizer=OPTIMIZER, stability=None, seed=0, folder=folder / "tuned", base_name="tiny",
        runtime=None,
    )  # fmt: skip
    assert len(result.losses) == 2 and verified.trainable_parameters > 0
    check_exports(ranking, selection, LORA, folder / "tuned")
    check_page(ranking, selection)


def tried(model_type: str, folder: Path) -> str:
    """The model's line in the document."""
    fields: dict[str, Any] = {}
    reasons: list[str] = []
    for _ in range(3):
        config = config_of(model_type, folder, **fields)
        try:
            found = examine(config)
            break
        except UserError as error:
            if "allow_uncovered: true" in str(error):
                fields["allow_uncovered"] = True
            elif "PEFT puts no adapter" in str(error) and "exclude" not in fields:
                fields["exclude"] = EXCLUDE[model_type]
                reasons.append(reason(error))
            else:
                return line(model_type, "refused in plan", "", [reason(error)])
    if fields.get("allow_uncovered"):
        reasons.append(f"outside of its layers: {found.outside.partition(' (')[0]}")
    share = f"{found.share:.1%}"
    try:
        searched(config, found, folder)
    except (UserError, CheckError) as error:
        return line(model_type, "refused at stage 1", share, [reason(error)])
    return line(model_type, " and ".join(["works", *_written(fields)]), share, reasons)


def _written(fields: dict[str, Any]) -> list[str]:
    given = [f"`{name}: {str(value).lower()}`" for name, value in fields.items()]
    return [f"with {', '.join(given)}"] if given else []


def line(model_type: str, result: str, share: str, why: list[str]) -> str:
    result = result.replace(" and with", " with").replace("|", "\\|")
    return f"| `{model_type}` | {result} | {share} | {', '.join(why)} |"


def reason(error: Exception) -> str:
    """The first clause of what an error says, without the model's name."""
    said = " ".join(str(error).split()).removeprefix("model ").partition("; ")[0]
    said = said.partition(": ")[2] if said.startswith("tiny-") else said
    return re.sub(r" \((\[PEFT|by up to).*?\)(?=,|$)", "", said)


@pytest.fixture(scope="module", autouse=True)
def _nothing_old_to_collect() -> Iterator[None]:
    """A training looks through all objects there are, some 0.3 s each time."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FIELDS)
def test_each_architecture_works_or_says_why_not(model_type: str, tmp_path: Path) -> None:
    assert tried(model_type, tmp_path) in DOCUMENT.read_text().splitlines()


REFUSED = {
    "bert": "has other logits than lm_head",
    "gpt2": "Conv1D, which keeps a weight the other way round",
    "t5": "AutoModelForCausalLM",
    "zamba": "share one weight",
}


def test_the_document_has_every_architecture_and_most_work() -> None:
    lines = [x for x in DOCUMENT.read_text().splitlines() if x.startswith("| `")]
    assert [x.split("`")[1] for x in lines] == sorted(FIELDS) and len(lines) >= 40
    refused = {x.split("`")[1]: x for x in lines if "| refused" in x}
    assert refused.keys() == REFUSED.keys()
    assert all(why in refused[name] for name, why in REFUSED.items())


HEAD = """# Models

Written by `python -m tests.ila_core.models.test_matrix`, and held by that test: for each
architecture a tiny model with random weights goes through its layers, two steps of stage 1, gates,
a selection of three quarters of its layers, LoRA on these, the ranking's card and report, exports
(PEFT, Axolotl, TRL; TRL in full too) and the verification of the adapter.

*Share*: how much of the language model's matrix weights (all parameters of two or more dimensions,
but embeddings and what `exclude:` names) the layers hold. Below 95 % the profile must say
`allow_uncovered: true`; what is outside is then neither ranked nor trained by a selection. The
shares are those of the tiny models. Experts that are 3-D parameters are layers, one for each tensor
and block; routers, and the biases of gpt-oss' experts, are outside.

| Architecture | Result | Share | Why |
|---|---|---|---|
"""


def main() -> None:
    lines = []
    for model_type in sorted(FIELDS):
        with tempfile.TemporaryDirectory() as folder:
            lines.append(tried(model_type, Path(folder)))
            gc.freeze()
    DOCUMENT.write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
