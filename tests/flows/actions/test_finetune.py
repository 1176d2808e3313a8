"""`ila finetune`, `forecast` and `merge`: any ranking, any method, any limit, and bad input."""

import json
from pathlib import Path

import pytest

from ila_core.search.ranking import Ranking

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def home(finished, tmp_path_factory):
    """A home in which `smoke` has run, and its ranking as a file."""
    made = finished.copied(tmp_path_factory.mktemp("finetuned") / "home")
    (row,) = made.json("rankings", "list")
    file = made.home.parent / "ranking.json"
    file.write_text(json.dumps(made.json("rankings", "show", row["ranking"])))
    return made, str(file)


@pytest.mark.parametrize("method", ["lora", "qlora", "adalora", "full"])
def test_every_method_trains_from_a_file_and_its_proof_is_accepted(home, method):
    made, file = home
    if method == "qlora":
        pytest.importorskip("bitsandbytes")
    answer = made.json(
        "finetune", "smoke", "--ranking", file, "--source", "terse", "--method", method
    )
    assert answer["method"] == method and len(answer["selection"]["train"]) == 32
    assert answer["why"].startswith("32 of 43 layers train by policy ila, scores of terse")
    (run,) = answer["runs"]
    proof = run["verification"]
    assert proof["gradient_seen"] == proof["matched"] == proof["requested"] == 32
    assert proof["frozen_identical"] == proof["frozen_tensors"]
    assert answer["held_out_loss"]["0"] < answer["held_out_loss"]["base"]
    # The forecast counts what training keeps; the goal is a tenth.
    assert sum(answer["forecast_bytes"].values()) == pytest.approx(
        run["peak_allocated_bytes"], rel=0.1
    )
    assert "holds" in made("verify", f"key:{run['key']}")


def test_a_files_ranking_selects_what_the_searchs_own_does(home):
    made, file = home
    own = made.json("finetune", "smoke", "--source", "instruct")
    given = made.json("finetune", "smoke", "--source", "instruct", "--ranking", file)
    assert own["selection"] == given["selection"]


def test_what_fits_is_chosen_by_score_per_cost(home):
    made, file = home
    answer = made.json(
        "finetune", "smoke", "--ranking", file, "--source", "terse", "--fit", "params=40K"
    )
    assert answer["selection"]["policy"] == "per_cost"
    assert 30_000 < answer["selection"]["trainable_parameters"] <= 40_000
    small = made.json(
        "finetune", "smoke", "--ranking", file, "--source", "terse", "--fit", "memory=16MiB"
    )
    assert sum(small["forecast_bytes"].values()) <= 16 * 2**20
    assert small["runs"][0]["peak_allocated_bytes"] <= 1.1 * 16 * 2**20


def test_the_forecast_says_what_each_share_of_layers_costs(home):
    made, file = home
    answer = made.json("forecast", "smoke", "--ranking", file, "--source", "terse")
    rows = answer["rows"]
    assert [row["layers"] for row in rows] == [4, 9, 13, 22, 32, 43]
    for column in ("trainable", "memory", "time"):
        values = [row[column] for row in rows]
        assert values == sorted(values) and values[0] < values[-1]


def test_a_fine_tuned_model_merges_into_a_folder(home, tmp_path):
    from transformers import AutoModelForCausalLM

    made, file = home
    answer = made.json("finetune", "smoke", "--ranking", file, "--source", "terse")
    reference = f"key:{answer['runs'][0]['key']}"
    merged = made.json("merge", "smoke", reference, "--out", str(tmp_path / "merged"))
    assert merged["apart"] < 1e-3
    AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    again = made("merge", "smoke", reference, "--out", str(tmp_path / "merged"), expect=2)
    assert "exists; give a folder that does not" in again


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs `source:`, the dataset whose ranking decides: terse, instruct, dialogue"),
        (["--policy", "intersection", "--keep", "0.5"], "does not heed `keep`"),
        (["--source", "terse", "--keep", "0"], "--keep: Input should be greater than 0"),
        (["--source", "terse", "--fit", "memory=1MiB"], "the least that one takes is"),
        (["--source", "terse", "--fit", "money=3"], "write memory=24GiB, params=20M or time=2h"),
        (["--source", "terse", "--keep", "0.5", "--layers", "3"], "give one of keep, layers"),
        (["--source", "terse", "--method", "lore"], "'lore' is not one of"),
        (["--source", "lima"], "unknown source of arm 'given', 'lima'"),
    ],
)
def test_bad_input_is_one_message(home, options, message):
    made, file = home
    said = made("finetune", "smoke", "--ranking", file, *options, expect=2)
    assert message in said and "Traceback" not in said


def test_a_ranking_of_another_architecture_is_refused(home, tmp_path):
    made, file = home
    ranking = Ranking.load(Path(file))
    layers = tuple(
        x.model_copy(update={"shape": (1, 1)}) if x.name == "lm_head" else x for x in ranking.layers
    )
    other = ranking.model_copy(update={"layers": layers, "architecture": "other"})
    other.save(tmp_path / "other.json")
    given = ["--ranking", str(tmp_path / "other.json"), "--source", "terse"]
    said = made("finetune", "smoke", *given, expect=2)
    assert "does not fit demo: lm_head (1, 1), in the model" in said


def test_tables_stand_beside_controls_and_the_papers_figures(home):
    made, _ = home
    found = made.json("reproduce", "smoke", "table1", "table7")
    rows = found["table1"]["tables"]["rows"]
    assert [row["arm"] for row in rows] == [
        "ATT (q, k, v, o)", "ATT2 (q, k, v)", "FFN (up, down, gate)", "LoRA",
    ]  # fmt: skip
    assert rows[0]["paper, Llama 2-7B: MMLU"] == 42.03
    for row in rows[:3]:
        assert row["against"] == "lora" and row["low"] <= row["difference"] <= row["high"]
    controls = found["table1"]["tables"]["controls"]
    assert [c["equal"] for c in controls] == ["parameters", "layers"] * 3
    memory = found["table7"]["tables"]["rows"]
    assert [row["paper, MiB"] for row in memory] == [32988, 25614, 26032, 18142]
    for row in memory:
        assert abs(row["forecast error"]) < 0.1
    assert any(note.startswith("lora does not overfit") for note in found["table1"]["notes"])
