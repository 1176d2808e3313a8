"""Keys: changed by every field that is identity, by no runtime setting."""

import os
import subprocess
import sys

import pytest

from flows.pipeline import ila_pipeline
from flows.plan.paper_tables import TABLES
from ila_core.config.load import load_profile
from ila_core.report.paper.published import MILESTONES, SEEDS
from ila_core.resolve import Lock
from tasks.cache.step import in_order
from tests.conftest import ROOT

TUNED = {"finetune", "evaluation"}
RANKED = {"ranking", "agreement", "selection", *TUNED}
SEARCHED = {"stage1", "stage2", "score", "mask", *RANKED}
CASES = {
    # override: kinds of step whose keys change (the report's always does)
    "data.max_length=48": {"prepare", *SEARCHED},
    "data.split_seed=1": {"prepare", *SEARCHED},
    'model.template="{{ messages }}"': {"prepare", *SEARCHED},
    "model.dtype=bfloat16": SEARCHED,
    "search.stage1.lora.r=4": SEARCHED,
    "search.stage1.optimizer.beta2=0.95": SEARCHED,
    "search.stage1.stability.epsilon=0.4": SEARCHED,
    "search.stage1.milestones=[0.5]": SEARCHED,
    "search.stage1.ranking_stop.every=0.5": SEARCHED,
    "search.stage1.ranking_stop=null": SEARCHED,
    "search.schedules.terse.lr=1.0e-3": SEARCHED,
    "search.stage2.initial_score=1": {"stage2", "mask", *RANKED},
    "search.stage2.lr=1": {"stage2", "mask", *RANKED},
    "search.scoring.batches=3": {"score", "mask"},
    "search.evidence.held_out=6": {"mask"},
    "search.evidence.fractions=[0.5]": {"mask"},
    "search.evidence.random_orders=3": {"mask"},
    "search.control.seeds=[4]": set(),
    "search.control.factor=2": set(),
    "search.control.fraction=0.5": set(),
    "search.keep=0.5": RANKED,
    "search.least=0.5": {"agreement", "selection", *TUNED},
    "finetune.lora.lr=1.0e-3": TUNED,
    "finetune.lora.alpha=8": TUNED,
    "finetune.optimizer.weight_decay=0": TUNED,
    "finetune.arms.3.seed=5": {"selection", *TUNED},
    "evaluate.resamples=500": set(),
    "evaluate.confidence=0.9": set(),
}


def pipeline(overrides, home):
    return ila_pipeline(load_profile("smoke", overrides), Lock(home, online=False))


def keys(overrides, home, until="report"):
    """Key of every step, by kind and label."""
    steps = in_order(*pipeline(overrides, home).targets(until))
    return {(step.name, step.label): step.key for step in steps}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("keys")


@pytest.mark.parametrize("override", CASES)
def test_identity_changes_exactly_the_keys_it_reaches(override, home):
    before, after = keys([], home), keys([override], home)
    changed = {kind for (kind, label), key in after.items() if before[kind, label] != key}
    assert changed == CASES[override] | {"report"}


ONE_DATASET = (
    "datasets=[{name: terse, source: '${ILA_PACKAGE}/demo/data/terse.jsonl', stands_for: lima}]",
    "search.schedules={terse: {lr: 2.0e-3, steps: 6}}", "finetune.other_datasets=[]",
    "finetune.dataset=terse", "finetune.arms.1.source=terse",
)  # fmt: skip


def test_arms_that_train_the_same_share_one_training(home):
    package = str(ROOT / "ila_core")
    overrides = [text.replace("${ILA_PACKAGE}", package) for text in ONE_DATASET]
    alone = pipeline(overrides, home).arms
    assert alone.alike == {"intersection": "ila"}
    assert alone.tuned["intersection"][0].key == alone.tuned["ila"][0].key
    assert [s.key for s in alone.evaluations("intersection")] == [
        s.key for s in alone.evaluations("ila")
    ]
    again = pipeline(["finetune.arms.1.keep=0.75"], home).arms
    assert again.tuned["ila"][0].key == pipeline([], home).arms.tuned["ila"][0].key
    assert again.alike == {}


def test_no_two_rows_of_a_plan_look_alike(home):
    ends = ("report", "evidence", "control", "tune", "fig2", "fig3", "comparison", *TABLES)
    steps = pipeline([], home).steps("+".join(ends))
    assert len({step.label for step in steps}) == len(steps) > 200


def test_names_and_places_change_no_key(home, tmp_path):
    (tmp_path / "moved.jsonl").write_bytes((ROOT / "ila_core/demo/data/terse.jsonl").read_bytes())
    assert keys([f"datasets.0.source={tmp_path / 'moved.jsonl'}"], home) == keys([], home)
    renamed = keys(["finetune.arms.1.name=other", "finetune.arms.3.like=other"], home)
    assert {k for (kind, _), k in renamed.items() if kind != "report"} == {
        k for (kind, _), k in keys([], home).items() if kind != "report"
    }


def test_a_change_of_one_dataset_leaves_the_others_alone(home):
    before, after = keys([], home), keys(["search.schedules.terse.lr=1.0e-3"], home)
    assert before["stage2", "stage2 instruct seed 0"] == after["stage2", "stage2 instruct seed 0"]
    assert before["finetune", "finetune all seed 0"] == after["finetune", "finetune all seed 0"]
    assert before["finetune", "finetune ila seed 0"] == after["finetune", "finetune ila seed 0"]


def test_a_scorer_more_in_the_evidence_is_one_more_column_and_no_other_search(home):
    added = "search.evidence.scorers=[integrated_gradients, size, lora_norm, fisher]"
    before, after = keys([], home), keys([added], home)
    assert {kind for kind, label in before if before[kind, label] != after[kind, label]} == {
        "mask",
        "report",
    }
    new = {label for _, label in set(after) - set(before)}
    assert new == {f"score fisher {d} seed 0" for d in ("terse", "instruct", "dialogue")}


@pytest.mark.parametrize("scorer", ["kappa", "weight_snr", "size", "random"])
def test_what_a_scorer_does_not_read_is_not_in_its_key(scorer, home):
    """The base's weights are the same whatever the dataset, and a drawn score needs no adapter."""
    alone = f"search.evidence.scorers=[{scorer}]"
    columns = {label: key for (kind, label), key in keys([alone], home).items() if kind == "score"}
    assert list(columns) == [f"score {scorer} terse seed 0"]  # one for all three datasets
    other = keys([alone, "search.stage1.lora.r=4", "search.seeds=[1]"], home)
    (key,) = (key for (kind, _), key in other.items() if kind == "score")
    assert (key in columns.values()) == (scorer != "random")


def test_the_scorer_that_ranks_decides_what_is_trained(home):
    before, after = keys([], home), keys(["search.scorer=lora_norm"], home)
    assert not any(kind == "stage2" for kind, _ in after)
    same = set(before) & set(after)
    assert {kind for kind, label in same if before[kind, label] != after[kind, label]} == {
        *RANKED,
        "mask",
        "report",
    }
    untouched = ("prepare", "stage1", "score")
    assert all(before[x] == after[x] for x in same if x[0] in untouched)


def test_every_milestone_and_seed_of_the_study_has_its_own_scores(home):
    study = pipeline([], home).study
    assert list(study.milestones) == list(MILESTONES)
    own = {step.key for step in study.milestones.values()}
    assert len(own) == len(MILESTONES)
    assert len({step.inputs["adapter"].key for step in study.milestones.values()}) == 1
    assert list(study.scores) == list(study.gate_seeds) == ["terse", "instruct", "dialogue"]
    for dataset, of_seed in study.gate_seeds.items():
        assert len({step.key for step in of_seed.values()}) == len(SEEDS)
        adapters = {step.inputs["adapter"].key for step in of_seed.values()}
        assert adapters == {study.adapters[dataset][0].key}
        assert of_seed[0].key == study.scores[dataset][0].key
    assert study.milestones[1.0].key == study.scores[study.dataset][0].key
    labels = {step.key: step.label for steps in study.targets().values() for step in steps}
    assert len(set(labels.values())) == len(labels)
    assert own.isdisjoint(keys([], home).values())


def test_the_control_has_a_key_per_draw_and_follows_what_it_checks(home):
    found = {label: key for (k, label), key in keys([], home, "control").items() if k == "control"}
    assert len(set(found.values())) == 3 * 2
    for override in ("search.control.factor=2", "search.stage2.lr=1", "search.scorer=size"):
        other = keys([override], home, "control")
        assert set(found.values()).isdisjoint(other.values())
    evidence = "search.evidence.random_orders=3"
    assert set(found.values()) < set(keys([evidence], home, "control").values())


def test_equal_in_processes_with_other_hash_seeds(home):
    code = (
        "from pathlib import Path; from tests.tasks.cache.test_keys import keys; import sys; "
        "print(sorted(keys([], Path(sys.argv[1])).items()))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, str(home)],
            env={
                **os.environ,
                "PYTHONHASHSEED": seed,
                "PYTHONPATH": str(ROOT),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    }
    assert outputs == {f"{sorted(keys([], home).items())}\n"}


def test_the_study_is_the_papers_whole_recipe_whatever_the_profiles_search_does(home):
    quick = ["search.scorer=gate_gradient", "search.stage2.batches=2", "search.stage2.rows=gate"]
    study = pipeline(quick, home).study
    for of_seed in study.scores.values():
        stage2 = of_seed[0].given["settings"]
        assert (stage2.rows, stage2.batches) == ("train", 128)
        stage1 = of_seed[0].inputs["adapter"].given["search"].stage1
        assert stage1.ranking_stop is None
        assert (stage1.stability.floor, stage1.stability.ceiling) == (1.0, 1.0)
