"""Each export applied by its consumer's own rule selects exactly our layers, block 1 against 11."""

from __future__ import annotations

import csv
import io
import json
import re
import shlex
from typing import Any

import pytest
import yaml

from ila_core.config import LoraSettings
from ila_core.errors import CheckError, UserError
from ila_core.export.base import Export, Exported
from ila_core.export.formats import EXPORTERS, export, recognise
from ila_core.models.layers import Layer
from ila_core.train.methods.lora import lora_layers
from tests.helpers.chosen import ARCHITECTURES, LORA, Case, case


@pytest.fixture(params=ARCHITECTURES)
def real(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


def by_peft(real: Case, **config: Any) -> dict[str, int]:
    """What the PEFT that is installed adapts, and at which rank."""
    from peft import LoraConfig, get_peft_model

    config.setdefault("task_type", "CAUSAL_LM")
    config.pop("base_model_name_or_path", None)  # a model without weights has no name
    model = get_peft_model(real.model(), LoraConfig(**config))
    return {name: layer.r["default"] for name, layer in lora_layers(model).items()}


def first(exported: Exported) -> str:
    return next(iter(exported.files.values()))


def swift_arguments(text: str) -> dict[str, list[str]]:
    command = re.sub(r"\\\n", "", text.partition("\nswift sft")[2])
    words = shlex.split(command)
    found: dict[str, list[str]] = {}
    for word in words:
        if word.startswith("--"):
            found[word[2:]] = []
        elif word != "$@":
            found[list(found)[-1]].append(word)
    return found


def peft_fields(to: str, text: str) -> dict[str, Any]:
    """What each trainer hands to `LoraConfig`, as its own source does."""
    if to in ("peft", "trl"):
        return json.loads(text)
    if to == "swift":
        given = swift_arguments(text)
        return {"r": int(given["lora_rank"][0]), "target_modules": given["target_regex"][0]}
    fields = yaml.safe_load(text)
    if to == "axolotl":
        return {"r": fields["lora_r"], "target_modules": fields["lora_target_modules"]}
    return {"r": fields["lora_rank"], "target_modules": fields["lora_target"].split(",")}


def test_peft_adapts_exactly_the_selection_in_every_form(real: Case) -> None:
    wanted = real.export("lora")
    forms = {to: first(export(to, wanted)) for to in ("peft", "trl", "axolotl", "llamafactory")}
    # All four are one list in the end, so PEFT is asked about it once.
    lists = {to: sorted(peft_fields(to, text)["target_modules"]) for to, text in forms.items()}
    assert set(map(tuple, lists.values())) == {tuple(sorted(wanted.selection.train))}
    expected = {name: LORA.r for name in wanted.selection.train}
    assert by_peft(real, **peft_fields("peft", forms["peft"])) == expected
    assert by_peft(real, **peft_fields("swift", first(export("swift", wanted)))) == expected


@pytest.mark.parametrize("to", ["axolotl", "spectrum", "swift", "trl"])
def test_full_fine_tuning_freezes_the_unselected_layers_and_nothing_else(
    real: Case, to: str
) -> None:
    wanted = real.export("full")
    text = first(export(to, wanted))
    frozen = {f"{n}.{part}" for n in wanted.selection.frozen for part in ("weight", "bias")}
    expected = {name for name in real.parameters if name not in frozen}
    assert {"axolotl": axolotl, "spectrum": spectrum, "swift": swift, "trl": frozen_list}[to](
        text, list(real.parameters)
    ) == expected
    found = EXPORTERS[to].selected(text, real.ranking.layers, list(real.parameters))
    assert tuple(found.layers) == wanted.selection.train
    assert {"model.embed_tokens.weight", "model.norm.weight"} <= set(found.outside)


def axolotl(text: str, parameters: list[str]) -> set[str]:
    """freeze_layers_except: dots are escaped unless a plus follows; matched from the start."""
    fields = yaml.safe_load(text)
    assert fields["gradient_checkpointing_kwargs"] == {"use_reentrant": False}
    rules = [re.compile(re.sub(r"\.(?!\+)", "\\\\.", e)) for e in fields["unfrozen_parameters"]]
    assert not any(re.search(r"\[\d*:?\d*\]$", e) for e in fields["unfrozen_parameters"])
    return {name for name in parameters if any(rule.match(name) for rule in rules)}


def spectrum(text: str, parameters: list[str]) -> set[str]:
    """setup_model_for_spectrum: lines, not YAML; and YAML it must be as well, for Axolotl."""
    lines = [line.split("- ")[1] for line in text.splitlines() if line.startswith("- ")]
    assert yaml.safe_load(text) == {"unfrozen_parameters": lines}
    by_lines = {n for n in parameters if any(re.match(line, n) for line in lines)}
    both = yaml.safe_dump(
        yaml.safe_load(text) | {"gradient_checkpointing_kwargs": {"use_reentrant": False}}
    )
    assert axolotl(both, parameters) == by_lines
    return by_lines


def swift(text: str, parameters: list[str]) -> set[str]:
    """freeze_parameters with ratio 1, then activate_parameters."""
    given = swift_arguments(text)
    assert given["freeze_parameters_ratio"] == ["1"]
    regex = re.compile(given["trainable_parameters_regex"][0])
    return {
        n
        for n in parameters
        if any(n.startswith(p) for p in given["trainable_parameters"]) or regex.search(n)
    }


def frozen_list(text: str, parameters: list[str]) -> set[str]:
    frozen = set(json.loads(text)["frozen"])
    return {name for name in parameters if name.rpartition(".")[0] not in frozen}


def test_ranks_and_alphas_per_layer(real: Case) -> None:
    selection = real.selection()
    ranks = {name: 4 + 4 * (i % 3) for i, name in enumerate(selection.train)}
    wanted = real.export("lora", ranks=ranks)
    for to in ("peft", "trl", "axolotl"):
        text = first(export(to, wanted))
        assert EXPORTERS[to].selected(text, real.ranking.layers, ()).ranks == ranks
    fields = json.loads(first(export("peft", wanted)))
    assert {n: LORA.alpha * r / LORA.r for n, r in fields["rank_pattern"].items()} == fields[
        "alpha_pattern"
    ]
    given = yaml.safe_load(first(export("axolotl", wanted)))
    assert given["lora_rank_pattern"] == fields["rank_pattern"]
    assert given["lora_alpha_pattern"] == fields["alpha_pattern"]
    if real.config.name == "biased":  # PEFT itself, where wrapping is fast
        assert by_peft(real, **fields) == ranks
    for to in ("llamafactory", "swift", "unsloth"):
        with pytest.raises(UserError, match=r"one LoRA rank for all layers"):
            export(to, wanted)


@pytest.mark.parametrize("to", ["json", "csv"])
@pytest.mark.parametrize("method", ["lora", "full"])
def test_tables_hold_the_selection_and_every_score(to: str, method: Any) -> None:
    real = case("biased")
    wanted = real.export(method)
    text = first(export(to, wanted))
    found = EXPORTERS[to].selected(text, real.ranking.layers, ())
    assert tuple(found.layers) == wanted.selection.train
    assert (found.method, set(found.ranks.values())) == (method, {8} if method == "lora" else set())
    rows: list[dict[str, Any]]
    if to == "json":
        document = json.loads(text)
        rows = document["layers"]
        assert document["train"] == list(wanted.selection.train)
        assert document["ranking"] == real.ranking.key
        scores = {row["name"]: row["scores"]["dolly"] for row in rows}
    else:
        rows = list(csv.DictReader(io.StringIO(text)))
        scores = {row["name"]: float(row["score dolly"]) for row in rows}
    assert scores == real.ranking.scores("dolly")
    assert re.match(
        r"(trains|is frozen) by ila: place \d+ on lima, \d+ on dolly of", rows[0]["why"]
    )


def test_spectrum_scores_and_how_far_its_rule_is_from_ours() -> None:
    real = case("llama2-7b")
    exported = export("spectrum", real.export("full"))
    name = "model_snr_results/snr_results_meta-llama-Llama-2-7b-hf.json"
    table = json.loads(exported.files[name])
    assert table["model.layers.3.self_attn.q_proj"] == {
        "snr": real.ranking.scores("lima")["model.layers.3.self_attn.q_proj"],
        "type": "self_attn.q_proj",
    }
    assert any(re.search(r"\d+ layers train that should be frozen", n) for n in exported.notes)


def test_unsloth_takes_a_grid_exactly_and_rounds_another_only_when_told() -> None:
    real = case("llama2-7b")
    layers = real.ranking.layers
    grid = {x.name for x in layers if x.type in ("q_proj", "up_proj") and x.block in (1, 4, 30)}
    fields = json.loads(first(export("unsloth", real.export("lora", real.selected(grid)))))
    assert (sorted(fields["target_modules"]), fields["layers_to_transform"]) == (
        ["q_proj", "up_proj"],
        [1, 4, 30],
    )
    assert set(by_peft(real, **fields)) == grid
    odd = grid - {"model.layers.4.self_attn.q_proj"}
    with pytest.raises(UserError, match=r"no such grid; .*1 layers train that should be frozen"):
        export("unsloth", real.export("lora", real.selected(odd)))
    exported = export("unsloth", real.export("lora", real.selected(odd), approximate=True))
    assert set(exported.trains) == grid
    cost = 8 * (4096 + 4096)
    assert any(f"frozen ({cost:,} parameters), 0 are frozen" in note for note in exported.notes)


def test_unsloth_would_train_the_head_in_full() -> None:
    real = case("biased")
    text = json.dumps({"r": 8, "target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1]})
    found = EXPORTERS["unsloth"].selected(text, real.ranking.layers, ())
    assert found.odd == {"lm_head": "in full, without an adapter"}
    with pytest.raises(UserError, match=r"no adapter on lm_head"):
        export("unsloth", real.export("lora", real.selected({x.name for x in real.ranking.layers})))


def by_llama_factory(fields: dict[str, Any], parameters: list[str]) -> set[str]:
    """_setup_freeze_tuning: parts of names, for the first or the last n blocks."""
    blocks = 1 + max(int(found[1]) for n in parameters if (found := re.search(r"\.(\d+)\.", n)))
    n = fields["freeze_trainable_layers"]
    chosen = range(max(0, blocks - n), blocks) if n > 0 else range(min(-n, blocks))
    modules = fields["freeze_trainable_modules"].split(",")
    entries = [f".{b}.{m}" for m in modules for b in chosen]
    entries += fields["freeze_extra_modules"].split(",")
    return {name for name in parameters if any(entry in name for entry in entries)}


@pytest.mark.parametrize("blocks", [range(2), range(11, 12), range(9, 12)])
def test_llama_factory_freezes_whole_modules_exactly(blocks: range) -> None:
    real = case("biased")
    part = {x.name for x in real.ranking.layers if x.block in blocks and ".mlp." in x.name}
    wanted = real.export("full", real.selected(part))
    exported = export("llamafactory", wanted)
    trained = by_llama_factory(yaml.safe_load(first(exported)), list(real.parameters))
    frozen = {f"{n}.{p}" for n in wanted.selection.frozen for p in ("weight", "bias")}
    assert trained == set(real.parameters) - frozen
    assert exported.trains == wanted.selection.train


def test_llama_factory_rounds_only_when_told_and_only_where_it_helps() -> None:
    real = case("biased")
    part = {x.name for x in real.ranking.layers if x.block in range(6) and ".mlp." in x.name}
    odd = real.selected(part - {"model.layers.1.mlp.up_proj"})
    with pytest.raises(UserError, match=r"1 layers train that should be frozen \(512 parameters\)"):
        export("llamafactory", real.export("full", odd))
    exported = export("llamafactory", real.export("full", odd, approximate=True))
    assert set(exported.trains) == part
    spread = real.selected({x.name for x in real.ranking.layers if x.type != "q_proj"})
    with pytest.raises(UserError, match=r"nearer to this selection than freezing nothing"):
        export("llamafactory", real.export("full", spread, approximate=True))


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "lm_head"], "layers_to_transform": [1, 11]},
        {"target_modules": ["layers.1.mlp.up_proj"]},
        {"target_modules": "all-linear", "exclude_modules": ["model.layers.1.mlp.up_proj"]},
        {"target_modules": "all-linear", "exclude_modules": r".*\.1\..*"},
        {"target_modules": r".*layers\.1\..*proj"},
        {"target_modules": ["q_proj"], "layers_to_transform": 1, "layers_pattern": "layers"},
        {"target_modules": ["q_proj", "up_proj"], "rank_pattern": {"layers.1.mlp.up_proj": 3}},
        {"target_modules": ["q_proj"], "rank_pattern": {"model.layers.1.*q_proj": 5}},
    ],
)
def test_our_reading_of_a_lora_config_is_pefts(config: dict[str, Any]) -> None:
    real = case("biased")
    text = json.dumps({"peft_type": "LORA", "r": 8, **config})
    assert EXPORTERS["peft"].selected(text, real.ranking.layers, ()).ranks == by_peft(
        real, r=8, **config
    )


def test_names_that_match_nothing_or_twice_are_seen() -> None:
    layers = case("biased").ranking.layers
    names = ["model.layers.1.mlp.up_proj", "mlp.up_proj", "model.layer.3.mlp.up_proj"]
    found = EXPORTERS["peft"].selected(
        json.dumps({"peft_type": "LORA", "target_modules": names}), layers, ()
    )
    assert found.unmatched == ("model.layer.3.mlp.up_proj",)
    assert [n for n, entries in found.layers.items() if len(entries) > 1] == names[:1]
    regex = "swift sft --target_regex '^(model\\.layers\\.1\\.mlp\\.up_proj|lm_heda)$'"
    found = EXPORTERS["swift"].selected(regex, layers, ())
    assert (tuple(found.layers), found.unmatched) == (("model.layers.1.mlp.up_proj",), ("lm_heda",))
    with_unsloth = yaml.safe_dump({"lora_target": names[0], "use_unsloth": True})
    found = EXPORTERS["llamafactory"].selected(with_unsloth, layers, ())
    assert (found.layers, found.unmatched) == ({}, (names[0],))


def test_a_bare_block_selects_block_eleven_too() -> None:
    layers = case("biased").ranking.layers
    text = "unfrozen_parameters:\n- model.layers.1\n"
    found = EXPORTERS["spectrum"].selected(text, layers, ())
    assert {layer.block for layer in layers if layer.name in found.layers} == {1, 10, 11}


def test_rows_of_a_layer_are_seen() -> None:
    layers = case("biased").ranking.layers
    rows = ["^lm_head.weight$[:32]", "^model.layers.1.mlp.up_proj.weight$[0:32]"]
    text = yaml.safe_dump({"base_model": "acme/biased", "unfrozen_parameters": rows})
    found = EXPORTERS["axolotl"].selected(text, layers, ())
    assert set(found.layers) == {"lm_head", "model.layers.1.mlp.up_proj"}
    assert found.odd == {"lm_head": "32 of its 64 rows"}


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("to", list(EXPORTERS))
def test_every_export_is_recognised_as_its_own(to: str, method: Any, tmp_path: Any) -> None:
    real = case("biased")
    blocks = {x.name for x in real.ranking.layers if x.block in range(3)}
    try:
        exported = export(to, real.export(method, real.selected(blocks)))
    except UserError:
        assert (to, method) in {("peft", "full"), ("unsloth", "full"), ("spectrum", "lora")}
        return
    for name, text in exported.files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    who, text = recognise(tmp_path)
    assert who == ("peft" if (to, method) == ("trl", "lora") else to)
    assert set(EXPORTERS[who].selected(text, real.ranking.layers, ()).layers) == blocks


def test_what_is_nobodys_is_said(tmp_path: Any) -> None:
    (tmp_path / "a.yaml").write_text("a: [")
    (tmp_path / "b.json").write_text("[1]")
    (tmp_path / "c.bin").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"holds no configuration that says what trains"):
        recognise(tmp_path)


@pytest.mark.parametrize("to", ["llamafactory", "swift"])
def test_an_alpha_that_is_no_whole_number(to: str) -> None:
    real = case("biased")
    half = LoraSettings(r=8, alpha=12.5, dropout=0)
    with pytest.raises(UserError, match=r"whole number, given 12.5"):
        export(to, Export(real.ranking, real.selection(), "lora", half, "acme/biased"))


def test_a_wrong_consumer_is_named_and_a_wrong_file_is_not_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = case("biased")
    with pytest.raises(UserError, match=r"did you mean 'axolotl'"):
        export("axolotol", real.export("lora"))

    def too_few(self: object, text: str, layers: list[Layer], parameters: object) -> Any:
        return EXPORTERS["json"].selected(text, layers[1:], parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(type(EXPORTERS["csv"]), "selected", too_few)
    monkeypatch.setattr(
        type(EXPORTERS["csv"]), "export", lambda self, wanted: EXPORTERS["json"].export(wanted)
    )
    first_layer = {real.ranking.layers[0].name}
    with pytest.raises(CheckError, match=r"csv's own rule would not apply this selection"):
        export("csv", real.export("lora", real.selected(first_layer)))
