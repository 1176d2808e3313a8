"""`ila gc`: shows and removes what can never be a hit again, and nothing that can."""

import pytest
from mlflow import MlflowClient

from ila_core.errors import CheckError
from tests.conftest import Ila
from tests.helpers.small import DEAD

pytestmark = pytest.mark.never_rerun


@pytest.fixture
def refreshed(small):
    """A home in which a step was made again, with another result."""
    small.run()
    small.values["first"] = 10
    small.run({"first": "bad seed"})
    return small, Ila(small.home)


def test_what_was_replaced_is_found_with_the_reason_and_removed(refreshed):
    small, ila = refreshed
    told = ila.json("gc", "--older-than", "0")
    assert not told["removed"]
    why = {found["what"]: found["why"] for found in told["found"]}
    stale = "made from a result that has been replaced"
    assert why == {"first": "superseded: bad seed", "left": stale, "right": stale, "last": stale}
    assert told["bytes"] == sum(found["size"] for found in told["found"]) > 0

    before, computed = payload_bytes(small), list(small.computed)
    removed = ila.json("gc", "--older-than", "0", "--remove")
    assert (removed["removed"], removed["bytes"]) == (True, told["bytes"])
    assert before - payload_bytes(small) == told["bytes"]
    assert ila.json("gc", "--older-than", "0")["found"] == []
    assert small.results()["last"] == 23 and small.computed == computed


def test_what_ended_lately_is_left_alone_by_default(refreshed):
    _, ila = refreshed
    assert "0 found" in ila("gc")


def test_a_finished_run_has_no_garbage(finished):
    assert finished.json("gc", "--older-than", "0")["found"] == []


def test_what_failed_was_killed_or_damaged_is_found(small):
    small.failing["left"] = CheckError("loss is NaN")
    with pytest.raises(CheckError):
        small.run()
    small.failing.clear()
    runs = small.run()
    (small.payload(runs["last"]) / "n.json").write_text("1000")
    MlflowClient(f"sqlite:///{small.home}/mlflow.db").set_tag(
        runs["last"].run_id, "ila.state", "quarantined"
    )
    small.tell(
        "UPDATE runs SET status = 'RUNNING' WHERE run_uuid = ?", runs["alone"].run_id
    )  # fmt: skip
    small.tell("UPDATE tags SET value = '0' WHERE key = 'ila.heartbeat'")
    small.tell("UPDATE tags SET value = ? WHERE key = 'ila.owner'", DEAD)
    (small.home / "work" / "left-behind").mkdir()
    found = Ila(small.home).json("gc", "--older-than", "0")["found"]
    assert sorted((f["what"], f["why"]) for f in found) == [
        ("alone", "its process ended without a word"),
        ("last", "quarantined"),
        ("left", "failed"),
        ("unfinished work", "left by a process that was killed"),
    ]


def test_what_led_to_a_published_ranking_stays(refreshed):
    small, ila = refreshed
    (old,) = small.tell(
        "SELECT run_uuid FROM runs WHERE name LIKE 'left-%' ORDER BY start_time LIMIT 1"
    )
    uri = f"sqlite:///{small.home / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("layer-ranking.demo")
    client.create_model_version("layer-ranking.demo", f"runs:/{old[0]}/payload", run_id=old[0])
    labels = {found["what"] for found in ila.json("gc", "--older-than", "0")["found"]}
    assert labels == {"right", "last"}


def payload_bytes(small):
    return sum(f.stat().st_size for f in small.home.glob("artifacts/*/artifacts/payload/**/*.*"))
