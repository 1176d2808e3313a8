"""Base models and tokenizers from folders and from the hub, untied heads, and broken folders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ila_core import hub
from ila_core.config import ModelConfig
from ila_core.errors import UserError
from ila_core.models.architecture import architecture_config
from ila_core.models.files import hub_model_revision, model_files, model_files_digest
from ila_core.models.loading import in_float64, load_base, load_tokenizer
from ila_core.resolve import Lock
from tests.conftest import ROOT

ARCHITECTURE: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rope_theta": 20000.0,
    "tie_word_embeddings": True,
}


def config_for(folder: Path | str, **changed: Any) -> ModelConfig:
    fields: dict[str, Any] = {
        "name": "tiny",
        "source": str(folder),
        "architecture": ARCHITECTURE,
        "dtype": "float32",
        "pad_token": "<pad>",
        "lm_head": "untie",
    }
    return ModelConfig.model_validate(fields | changed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    import torch
    from tokenizers import Tokenizer, models
    from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    made = tmp_path / "tiny"
    base = AutoModelForCausalLM.from_config(architecture_config(config_for(made)))
    base.save_pretrained(made)
    words = {word: i for i, word in enumerate(["<s>", "</s>", "<pad>", "hello"])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<s>", eos_token="</s>"
    ).save_pretrained(made)
    return made


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model.eval()(torch.arange(8)[None]).logits


def test_a_base_is_loaded_untied_and_computes_the_same(folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    tied = AutoModelForCausalLM.from_pretrained(folder)
    untied = load_base(config_for(folder), "cpu")
    assert torch.equal(logits(tied), logits(untied))
    head, embedding = untied.get_output_embeddings(), untied.get_input_embeddings()
    assert head.weight.data_ptr() != embedding.weight.data_ptr()
    assert untied.config.tie_word_embeddings is False and untied.config.use_cache is False
    assert untied.config._attn_implementation == "sdpa"
    untied.tie_weights()
    assert head.weight.data_ptr() != embedding.weight.data_ptr()


def test_an_untied_base_keeps_its_head_when_saved(folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    untied = load_base(config_for(folder), "cpu")
    with torch.no_grad():
        untied.get_output_embeddings().weight.add_(1)
    untied.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert torch.equal(logits(untied), logits(again))


def test_the_dtype_is_the_profiles(folder: Path) -> None:
    import torch

    model = load_base(config_for(folder, dtype="bfloat16", lm_head="exclude"), "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.config.tie_word_embeddings is True


def test_the_hub_gives_what_the_folder_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    asked = []

    def stand_in(repo: str, patterns: object, revision: str | None, *, kind: str) -> Path:
        asked.append((repo, revision, kind))
        return folder

    monkeypatch.setattr(hub, "fetch", stand_in)
    config = config_for("acme/tiny", revision="abc123")
    theirs, ours = load_base(config, "cpu"), load_base(config_for(folder), "cpu")
    assert torch.equal(logits(theirs), logits(ours))
    assert load_tokenizer(config).get_vocab() == load_tokenizer(config_for(folder)).get_vocab()
    assert set(asked) == {("acme/tiny", "abc123", "model")}


def test_a_hub_revision_is_asked_for_as_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "current_commit", lambda repo, *, kind: f"{kind} {repo}")
    assert hub_model_revision(config_for("acme/tiny")) == "model acme/tiny"


def test_a_different_architecture_is_an_error_that_names_every_field(folder: Path) -> None:
    wrong = ARCHITECTURE | {"num_hidden_layers": 3, "rope_theta": 10000.0, "rms_norm_eps": 0.5}
    with pytest.raises(UserError) as caught:
        load_base(config_for(folder, architecture=wrong), "cpu")
    assert "num_hidden_layers: given 3, the model's config.json has 2" in str(caught.value)
    assert "rope_parameters: given" in str(caught.value)
    assert "rms_norm_eps: given 0.5" in str(caught.value)
    forgotten = {k: v for k, v in ARCHITECTURE.items() if k != "num_key_value_heads"}
    with pytest.raises(UserError, match=r"num_key_value_heads: given 2, .* has 1"):
        load_base(config_for(folder, architecture=forgotten), "cpu")


def test_a_pad_token_is_the_profiles_and_none_is_needed(folder: Path) -> None:
    assert load_tokenizer(config_for(folder)).pad_token == "<pad>"
    assert load_tokenizer(config_for(folder, pad_token=None)).pad_token is None
    with pytest.raises(UserError, match="given '<pda>', which the tokenizer does not have"):
        load_tokenizer(config_for(folder, pad_token="<pda>"))


def test_ids_beyond_the_embedding_are_refused_when_the_tokenizer_is_read(folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens([f"<more{i}>" for i in range(28)])
    tokenizer.save_pretrained(folder)
    assert max(load_tokenizer(config_for(folder)).get_vocab().values()) == 31
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(UserError, match=r"'\[PAD\]' \(32\), and .* rows for the ids 0 to 31 only"):
        load_tokenizer(config_for(folder, pad_token=None))


def test_an_architecture_without_sdpa_is_loaded_with_eager_attention_and_said(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM

    bloom = {
        "model_type": "bloom", "vocab_size": 32, "hidden_size": 16, "n_layer": 1, "n_head": 2,
        "tie_word_embeddings": True,
    }  # fmt: skip
    config = config_for(folder, architecture=bloom)
    with caplog.at_level("INFO", "ila"):
        load_base(config_for(folder), "cpu")
        assert not caplog.records
        AutoModelForCausalLM.from_config(architecture_config(config)).save_pretrained(folder)
        assert load_base(config, "cpu").config._attn_implementation == "eager"
    assert "BloomForCausalLM has no SDPA attention" in caplog.text


QUANTISED: dict[str, dict[str, Any]] = {
    "bitsandbytes in 4 bits": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    **{name: {"quant_method": name} for name in ("fp8", "gptq", "mxfp4", "compressed-tensors")},
}


@pytest.mark.parametrize("method", QUANTISED)
def test_quantised_weights_are_refused_by_name_in_plan(method: str, folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    fields["quantization_config"] = QUANTISED[method]
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match=f"says that they are: {method}.* the method qlora"):
        Lock(folder.parent / "home", online=False).model(config_for(folder))
    with pytest.raises(UserError, match=f"says that they are: {method}"):
        load_base(config_for(folder), "cpu")


def test_eight_bit_weights_without_their_scales_are_refused_in_plan(folder: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    lock, file = Lock(folder.parent / "home", online=False), folder / "model.safetensors"
    assert "files" in lock.model(config_for(folder))  # type: ignore[operator]
    tensors = load_file(file)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = tensors[name].to(torch.float8_e4m3fn)
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=rf"{name} in model.safetensors has type F8_E4M3"):
        lock.model(config_for(folder))


def test_float16_is_refused_with_the_reason(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"float16 needs loss scaling, .* allowed: bfloat16"):
        config_for(folder, dtype="float16")


def test_rows_longer_than_the_models_positions_are_refused_in_plan(tmp_path: Path) -> None:
    lock = Lock(tmp_path, online=False)
    lock.check_length(config_for("acme/tiny"), 64)
    with pytest.raises(UserError, match=r"max_length: given 65, .* tiny has 64 positions"):
        lock.check_length(config_for("acme/tiny"), 65)
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    longer = ARCHITECTURE | {"rope_parameters": rope | {"rope_theta": 1e4}}
    del longer["rope_theta"]
    lock.check_length(config_for("acme/tiny", architecture=longer), 256)
    bloom = {"model_type": "bloom", "vocab_size": 32, "hidden_size": 16, "n_layer": 1, "n_head": 2}
    lock.check_length(config_for("acme/tiny", architecture=bloom), 10**6)  # it has no limit


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def _without_a_tensor(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _with_a_tensor_more(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.bias"] = tensors["model.norm.weight"].clone()
    tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = tensors["model.norm.weight"].clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def _bad_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _holding(name: str, content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_text(content)

    return damage


def _with_an_index(content: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        _without_weights(folder)
        (folder / "model.safetensors.index.json").write_text(content)
        (folder / "model-00001-of-00001.safetensors").write_bytes(b"")

    return damage


def _unknown_config(folder: Path) -> None:
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"model_type": "lllama"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without_weights, r"has no model\*\.safetensors"),
        (_cut_weights, "weights cannot be read from"),
        (_without_a_tensor, r"lacks the weights model\.layers\.1\.mlp\.up_proj\.weight"),
        (_with_a_tensor_more, r"has no place for: model\.layers\.1\.mlp\.up_proj\.bias; without"),
        (_bad_config, "is not a model configuration"),
        (_unknown_config, "is not a model configuration"),
        (_holding("config.json", "[" * 100_000), "is not a model configuration"),
        (_holding("config.json", "3"), "is not a model configuration"),
        (_holding("config.json", '{"model_type": "llama", "quantization_config": []}'), "config"),
        (_with_an_index("[]"), "weights cannot be read from"),
        (_with_an_index("[" * 100_000), "weights cannot be read from"),
        (_with_an_index('{"weight_map": {"a": 3}}'), "weights cannot be read from"),
    ],
)
def test_a_broken_folder_says_what_is_wrong(
    damage: Callable[[Path], None], message: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(UserError, match=message) as caught:
        load_base(config_for(folder), "cpu")
    assert str(folder) in str(caught.value)


def test_a_missing_folder_or_tokenizer_says_so(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist; set the model profile's `source:`"):
        load_base(config_for(tmp_path / "nowhere"), "cpu")
    with pytest.raises(UserError, match=r"has no config\.json"):
        model_files(tmp_path)
    for name in ("tokenizer_config.json", "tokenizer.json"):
        for content in ("{", "3", "[]", "[" * 100_000):
            (folder / name).write_text(content)
            with pytest.raises(UserError, match="no tokenizer can be read"):
                load_tokenizer(config_for(folder))


def test_the_identity_of_a_folder_is_its_models_files(folder: Path) -> None:
    names = [path.name for path in model_files(folder)]
    assert names == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    before = model_files_digest(folder)
    (folder / "README.md").write_text("notes")
    (folder / "tokenizer").mkdir()
    assert model_files_digest(folder) == before
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    assert model_files_digest(folder) != before


def test_only_one_function_makes_float64_where_a_device_may_have_none() -> None:
    class OnMps:
        device = torch.device("mps")

        def cpu(self) -> torch.Tensor:
            return torch.ones(2)

        def double(self) -> None:
            raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    assert in_float64(OnMps()).dtype == in_float64(torch.ones(2)).dtype == torch.float64
    made = {
        f"{file.name}: {line.strip()}"
        for file in (ROOT / "ila_core").rglob("*.py")
        for line in file.read_text().splitlines()
        if ".double()" in line or "torch.float64" in line
    }
    on_the_cpu = {
        "likelihood.py: sums = torch.zeros(len(names), dtype=torch.float64)",
        "likelihood.py: sums.index_add_(0, torch.tensor(owner), log_p.cpu().double())",
        "fisher.py: return torch.stack(squares).sum() if squares else "
        "torch.zeros((), dtype=torch.float64)",
    }
    assert {line for line in made if not line.startswith("loading.py: return")} == on_the_cpu
