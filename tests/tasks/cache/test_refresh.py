"""`--refresh STEP --reason WHY`, twins and damage, on steps of a millisecond."""

import pytest
from mlflow import MlflowClient

from ila_core.errors import CheckError
from tests.helpers.small import LABELS

pytestmark = pytest.mark.never_rerun


@pytest.mark.parametrize("label", LABELS)
def test_the_same_outcome_leaves_the_rest_cached(small, label):
    small.run()
    small.computed.clear()
    small.run({label: "to see"})
    assert small.computed == [label]
    assert small.results()["last"] == 5
    superseded = """
        SELECT w.value FROM tags s JOIN tags w ON w.run_uuid = s.run_uuid
        WHERE s.key = 'ila.state' AND s.value = 'superseded' AND w.key = 'ila.reason'
    """
    assert small.tell(superseded) == [("to see",)]


@pytest.mark.parametrize(
    ("label", "again"),
    [
        ("first", ["first", "left", "right", "last"]),
        ("left", ["left", "last"]),
        ("last", ["last"]),
        ("alone", ["alone"]),
    ],
)
def test_another_outcome_recomputes_what_was_made_from_the_old_one(small, label, again):
    small.run()
    small.computed.clear()
    small.values[label] = 10
    small.run({label: "bad seed"})
    assert small.computed == again
    results = small.results()
    assert results[label] >= 10 and (results["last"] > 5) == (label != "alone")


def test_the_old_outcome_again_makes_what_was_made_from_it_hits_again(small):
    small.run()
    for value in (10, 1):
        small.values["first"] = value
        small.run({"first": "to and fro"})
    assert small.computed[5:] == ["first", "left", "right", "last", "first"]


def test_several_are_refreshed_in_order(small):
    small.run()
    small.computed.clear()
    small.run(dict.fromkeys(("last", "first", "alone"), "all of them"))
    assert small.computed == ["first", "last", "alone"]


@pytest.mark.parametrize("label", ["first", "left", "last"])
def test_a_refresh_that_fails_loses_nothing(small, label):
    small.run()
    small.computed.clear()
    small.failing[label] = CheckError("loss is NaN")
    with pytest.raises(CheckError, match="loss is NaN"):
        small.run({label: "to see"})
    small.failing.clear()
    assert small.results()["last"] == 5
    assert label not in small.computed


def test_what_mlflow_did_not_take_is_committed_by_the_next_run(small, monkeypatch):
    original = MlflowClient.log_artifacts

    def refuse(client, run_id, folder, where):
        monkeypatch.setattr(MlflowClient, "log_artifacts", original)
        from mlflow.exceptions import MlflowException

        raise MlflowException("Connection refused")

    monkeypatch.setattr(MlflowClient, "log_artifacts", refuse)
    with pytest.raises(ConnectionError, match="is kept in"):
        small.run()
    assert small.computed == ["first", "alone"]
    small.run()
    assert sorted(small.computed) == sorted(LABELS)
    assert list((small.home / "uncommitted").iterdir()) == []


def test_steps_of_one_key_are_computed_once_whatever_they_are_called(small):
    twin = small.steps["alone"]
    small.steps["twin"] = type(twin)("number", label="twin", version=1, identity=twin.identity)
    small.wanted = ("alone", "twin")
    runs = small.run()
    assert small.computed == ["alone"]
    assert runs["alone"] == runs["twin"]


@pytest.mark.parametrize("label", ["first", "left", "alone"])
def test_a_damaged_payload_is_never_an_input_and_is_computed_anew(small, label):
    payload = small.payload(small.run()[label])
    (payload / "n.json").write_text("1000")
    small.computed.clear()
    if label == "alone":  # nothing reads it
        small.run()
        assert small.computed == []
    else:
        with pytest.raises(CheckError, match="does not match the digest"):
            small.run({"left" if label == "first" else "last": "reads it"})
        quarantined = small.tell("SELECT count(*) FROM tags WHERE value = 'quarantined'")
        assert quarantined == [(1,)]
    small.computed.clear()
    small.run({} if label != "alone" else {label: "damaged"})
    assert small.computed == [label]
    assert small.results()["last"] == 5
