"""Rankings by name, as two teams use them: publish, resolve, move, pull, adopt, retire."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mlflow import MlflowClient

from ila_core.config import RuntimeConfig
from ila_core.search.ranking import Ranking
from ila_core.search.ranking_reference import Published
from tasks.cache.lookup import open_lookup
from tasks.tracking.ranking_version import PREFIX
from tasks.tracking.registry import Registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def team(finished, tmp_path_factory):
    """A home in which `smoke` has run, its ranking published as `tales@champion`; and the key."""
    made = finished.copied(tmp_path_factory.mktemp("registry") / "home")
    (row,) = made.json("rankings", "list")
    made("rankings", "publish", row["ranking"], "--name", "tales", "--alias", "champion")
    return made, row["ranking"]


@pytest.fixture
def registry(team):
    return Registry(runtime_of(team[0]))


def runtime_of(ila):
    return RuntimeConfig(home=ila.home, tracking_uri=f"sqlite:///{ila.home}/mlflow.db")


def other(ranking, key, **changes):
    """A ranking of other steps that differs in its scores, with the key `key`."""
    elsewhere = {d: {s: k[::-1] for s, k in of.items()} for d, of in ranking.score_keys.items()}

    def turned(layer):
        return {d: {s: -v for s, v in of.items()} for d, of in layer.scores.items()}

    layers = tuple(x.model_copy(update={"scores": turned(x)}) for x in ranking.layers)
    return ranking.model_copy(
        update={"layers": layers, "key": key, "score_keys": elsewhere, **changes}
    )


@pytest.fixture
def adopted(team, tmp_path):
    """`adopted(key, **changes)`: a document made elsewhere, in the cache; its reference there."""
    made, key = team

    def adopt(of, **changes):
        file = tmp_path / f"{of}.json"
        given = Ranking.model_validate(made.json("rankings", "show", key))
        other(given, of, **changes).save(file)
        return made.json("rankings", "adopt", str(file))["ranking"]

    return adopt


def test_anybody_reads_it_with_one_call_of_mlflow_and_none_of_our_code(team):
    made, key = team
    call = 'mlflow.artifacts.load_dict("models:/layer-ranking.tales@champion/ranking.json")'
    code = f"import json, mlflow, sys; print(json.dumps({call})); assert 'tasks' not in sys.modules"
    environment = made.environment | {"MLFLOW_TRACKING_URI": f"sqlite:///{made.home}/mlflow.db"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=made.home, env=environment, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == made.json("rankings", "show", key)


def test_the_same_ranking_again_is_the_same_version_and_its_page_shows_the_card(team, registry):
    made, key = team
    again = made.json("rankings", "publish", key, "--name", "tales")
    assert again["ranking"] == "tales/1"
    version = registry.find(Published("tales", None, 1))
    assert "| terse | Apache-2.0 | 0 | one seed | not run |" in version.card
    assert "Cost of the search: " in version.card and "s of computing" in version.card
    assert again["card"]["datasets"][0]["licence"] == "Apache-2.0"
    shown = made("rankings", "show", "tales@champion")
    assert "tales@champion, which is tales/1" in shown and version.card in shown
    rows = {row["ranking"]: row for row in made.json("rankings", "list")}
    assert rows["tales/1"]["aliases"] == ["champion"] and rows["tales/1"]["state"] == "published"
    assert rows[key]["published_as"] == ["tales/1"] and rows[key]["state"] == "cached"


def test_an_alias_that_moves_changes_no_finished_key(team, adopted, registry):
    made, key = team
    train = ("finetune", "smoke", "--source", "terse", "--ranking")
    first = made.json(*train, "tales@champion")
    assert first["ranking"]["pinned"] == "tales/1"
    second = adopted("c" * 12)
    assert made.json("rankings", "publish", second, "--name", "tales", "--alias", "champion")[
        "before"
    ] == "tales/1"  # fmt: skip
    moved = registry.find(Published("tales", "champion", None))
    try:
        assert made.json(*train, "tales/1")["runs"] == first["runs"]
        planned = made.json(*train, "tales@champion")
        assert planned["ranking"]["pinned"] == moved.reference
        assert planned["runs"][0]["key"] != first["runs"][0]["key"]
    finally:
        registry.point("tales", "champion", 1)
    # The document, not how it was called, is in the key.
    assert made.json(*train, key)["runs"] == first["runs"]
    lookup = open_lookup(runtime_of(made))
    runs = [r for r in lookup.finished_steps("selection") if "ila.ranking" in r.tags]
    assert {r.tags["ila.ranking"] for r in runs} == {"tales/1", moved.reference}
    digests = {r.tags["ila.ranking_digest"] for r in runs}
    assert digests == {first["ranking"]["digest"], moved.digest}


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("tales@champoin", "did you mean 'champion'?"),
        ("tails@champion", "did you mean 'tales'?"),
        ("tales/9", "'tales' has no version 9; it has"),
        ("tales", "such as tales@champion"),
        ("../tales@champion", "is no reference to a ranking"),
        ("key:0123456789ab", "no finished ranking has key:0123456789ab"),
    ],
)
def test_a_reference_that_nothing_answers_to_is_one_message(team, reference, message):
    made, _ = team
    said = made("rankings", "show", reference, expect=2)
    assert message in said and "Traceback" not in said


def test_what_is_pulled_is_the_document_with_its_card(team, tmp_path):
    made, key = team
    out = tmp_path / "theirs.json"
    pulled = made.json("rankings", "pull", "tales@champion", "--out", str(out))
    assert Ranking.load(out).digest == pulled["digest"]
    assert out.with_suffix(".md").read_text().startswith("# Layers of demo that matter")
    assert "exists; give a new file" in made(
        "rankings", "pull", key, "--out", str(out), expect=2
    )  # fmt: skip
    assert "ending in .json" in made("rankings", "pull", key, "--out", str(tmp_path), expect=2)


def test_a_file_is_adopted_before_it_is_published_and_stays_marked(team, adopted, tmp_path):
    made, _ = team
    reference = adopted("a" * 12)
    assert adopted("a" * 12) == reference
    (row,) = [r for r in made.json("rankings", "list") if r["ranking"] == reference]
    assert row["state"] == "adopted"
    published = made.json("rankings", "publish", reference, "--name", "elsewhere")
    assert published["card"]["adopted"] and published["card"]["seconds"] is None
    file = tmp_path / f"{'a' * 12}.json"
    said = made("rankings", "publish", str(file), "--name", "elsewhere", expect=2)
    assert "`ila rankings adopt" in said
    changed = json.loads(file.read_text())
    changed["layers"].pop()
    file.write_text(json.dumps(changed))
    assert "changed since it was made" in made("rankings", "adopt", str(file), expect=1)


def test_a_name_holds_one_architecture(team, adopted):
    made, key = team
    from ila_core.models.layers import fingerprint

    whole = Ranking.model_validate(made.json("rankings", "show", key))
    layers = whole.layers[:-1]
    changes = {"layers": layers, "architecture": fingerprint(layers)}
    small = adopted("b" * 12, **changes)
    said = made("rankings", "publish", small, "--name", "tales", expect=2)
    assert "'tales' names rankings of another architecture" in said


def test_a_reserved_name_takes_the_first_ranking(team, registry):
    made, key = team
    uri = f"sqlite:///{made.home}/mlflow.db"
    MlflowClient(uri, registry_uri=uri).create_registered_model(f"{PREFIX}reserved")
    made("rankings", "publish", key, "--name", "reserved")
    assert registry.find(Published("reserved", alias=None, version=1)).key == key.split(":")[1]


def test_a_retired_version_never_resolves_in_silence(team, adopted, registry):
    made, _ = team
    reference = adopted("d" * 12)
    version = made.json("rankings", "publish", reference, "--name", "tales", "--alias", "old")
    retire = ("rankings", "retire", version["ranking"], "--reason", "bad rows in terse")
    said = made(*retire)
    assert "would affect tales@old" in said and "say --yes" in said
    assert "what old points at: move the alias first" in made(*retire, "--yes", expect=2)
    assert "give the version itself" in made(
        "rankings", "retire", "tales@old", "--reason", "x", expect=2
    )
    made(*retire, "--yes", "--drop-alias")
    message = f"{version['ranking']} was retired: bad rows in terse. Instead take tales/"
    assert message in made("rankings", "show", version["ranking"], expect=1)
    assert "was retired: bad rows" in made(
        "rankings", "publish", reference, "--name", "tales", expect=1
    )
    # An alias that somebody moves there by MLflow's own page.
    registry.point("tales", "stale", version_number(version))
    said = made("finetune", "smoke", "--ranking", "tales@stale", "--source", "terse", expect=1)
    why = "which was retired: bad rows in terse. Instead take tales/"
    assert f"tales@stale points at {version['ranking']}, {why}" in said
    made("rankings", "show", reference)  # whoever knows why still has it


def version_number(published):
    return int(published["ranking"].partition("/")[2])


def test_lineage_says_what_made_it_and_what_used_it(team):
    made, _ = team
    found = made.json("rankings", "lineage", "tales/1")
    steps = [step["step"] for step in found["made_by"]]
    assert steps[-1] == "ranking" and "stage1 terse seed 0" in steps and "prepare terse" in steps
    used = {step["step"] for step in found["used_by"]}
    # Of the run's own arms, those that read scores.
    assert {"finetune ila seed 0", "finetune intersection seed 0"} <= used
    assert not any("random" in step or "all" in step.split() for step in used)
    assert "tales/1" in {row["ranking"] for row in found["published_as"]}


def test_a_damaged_payload_is_named_quarantined_and_not_served(finished, tmp_path):
    made = finished.copied(tmp_path / "home")
    (row,) = made.json("rankings", "list")
    made("rankings", "publish", row["ranking"], "--name", "tales", "--alias", "champion")
    lookup = open_lookup(runtime_of(made))
    (run,) = lookup.finished(row["ranking"].removeprefix("key:"))
    document = Path(run.artifact_uri.removeprefix("file://")) / "payload" / "ranking.json"
    document.write_text(document.read_text().replace('"keep": 0.75', '"keep": 0.76'))
    said = made("rankings", "show", "tales@champion", expect=1)
    assert "tales/1 cannot be used: it was published with the digest" in said
    assert f"Run {run.run_id} is quarantined" in said
    assert lookup.finished(run.key) == []
    said = made("rankings", "publish", "tales@champion", "--name", "tales", expect=1)
    assert "does not match the digest it was committed with" in said


def publish_at_once(ila, runs_and_names, alias):
    """Each published as `race`, by a thread with a client of its own, all at once."""
    barrier = threading.Barrier(len(runs_and_names))
    found, failed = [], []

    def publish(run, ranking):
        registry = Registry(runtime_of(ila))
        barrier.wait()
        try:
            version = registry.publish(run, ranking, "race", "a card")
            registry.point("race", alias, version.number)
            found.append(version)
        except Exception as error:  # whatever it is, the test shows it
            failed.append(error)

    threads = [threading.Thread(target=publish, args=pair) for pair in runs_and_names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    return found


@pytest.mark.never_rerun
def test_two_teams_publish_the_same_and_different_rankings_at_once(team, adopted, registry):
    made, key = team
    lookup = open_lookup(runtime_of(made))
    references = [key, adopted("e" * 12)]
    pairs = []
    for reference in references:
        (run,) = lookup.finished(reference.removeprefix("key:"))
        pairs.append((run, registry.document(run, reference)))
    found = publish_at_once(made, [*pairs, *pairs], "champion")
    # One version each, whoever came first; the alias is one of them, and reads.
    versions = registry.versions("race")
    assert {v.digest for v in versions} == {ranking.digest for _, ranking in pairs}
    assert len(versions) == 2 and {v.number for v in found} == {v.number for v in versions}
    champion = registry.find(Published("race", "champion", None))
    assert champion.number in {v.number for v in versions}
    assert registry.read(champion).digest == champion.digest


@pytest.mark.never_rerun
def test_an_alias_that_several_make_at_once_is_made(team, registry):
    # Of 100 such calls the database refused 17; the forty here are enough to meet one.
    made, key = team
    (run,) = open_lookup(runtime_of(made)).finished(key.removeprefix("key:"))
    registry.publish(run, registry.document(run, key), "several", "a card")
    barrier, failed = threading.Barrier(4), []

    def point():
        of_its_own = Registry(runtime_of(made))
        for number in range(10):
            barrier.wait()
            try:
                of_its_own.point("several", f"new-{number}", 1)
            except Exception as error:  # whatever it is, the test shows it
                failed.append(error)

    threads = [threading.Thread(target=point) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    aliases = registry.find(Published("several", None, 1)).aliases
    assert set(aliases) == {f"new-{number}" for number in range(10)}


def test_other_weights_need_a_declared_relation_which_then_is_marked(team, adopted, tmp_path):
    made, _ = team
    reference = adopted("f" * 12, model={"hub": "org/parent", "revision": "0" * 40})
    train = ("finetune", "smoke", "--source", "terse", "--ranking", reference)
    said = made(*train, expect=2)
    assert "hub org/parent" in said and "--relation instruct, mirror" in said
    assert "did you mean 'instruct'" in made(*train, "--relation", "instrcut", expect=2)
    declared = made.json(*train, "--relation", "instruct")
    assert declared["ranking"]["relation"] == "instruct"
    by_profile = made.json(*train, "--set", "model.related={demo: instruct}")
    assert by_profile["runs"] == declared["runs"]
    lookup = open_lookup(runtime_of(made))
    (run,) = [
        r for r in lookup.finished_steps("selection") if r.tags.get("ila.ranking") == reference
    ]
    assert run.tags["ila.relation"] == "instruct"
    payload = Path(run.artifact_uri.removeprefix("file://")) / "payload"
    measurements = json.loads((payload / "measurements.json").read_text())
    assert measurements["ranking"]["relation"] == "instruct"
    said = made("finetune", "smoke", "--source", "terse", "--relation", "mirror", expect=2)
    assert "--relation says how the model is related to that of a --ranking" in said


def test_what_cannot_be_reached_is_said(ila):
    said = ila(
        "rankings", "show", "tales@champion", expect=1, MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    assert "MLflow at http://127.0.0.1:9 cannot be used" in said and "Traceback" not in said
