"""`ila gc`: shows and removes what can never be a hit again, and nothing that can."""

import sqlite3
from contextlib import closing

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def refreshed(finished, tmp_path):
    """A home in which a score was made again, and what had been made of another result of it."""
    ila = finished.copied(tmp_path / "home")
    with closing(sqlite3.connect(ila.home / "mlflow.db")) as connection, connection:
        # As if that score had come out differently then: what was made from it is stale now.
        connection.execute(
            "UPDATE tags SET value = 'another' WHERE key = 'ila.upstream' AND run_uuid IN (SELECT "
            "run_uuid FROM tags WHERE key = 'ila.label' AND value IN ('ranking', 'agreement'))"
        )
    ila("search", "smoke", "--refresh", "stage2 terse seed 0", "--reason", "bad seed")
    return ila


def test_what_was_replaced_is_found_with_the_reason_and_removed(refreshed):
    told = refreshed.json("gc", "--older-than", "0")
    assert not told["removed"]
    why = {found["what"]: found["why"] for found in told["found"]}
    assert why["stage2 terse seed 0"] == "superseded: bad seed"
    assert why["ranking"] == "made from a result that has been replaced"
    assert not any(what.startswith(("prepare", "stage1")) for what in why)
    assert told["bytes"] == sum(found["size"] for found in told["found"]) > 0

    before = payload_bytes(refreshed)
    removed = refreshed.json("gc", "--older-than", "0", "--remove")
    assert (removed["removed"], removed["bytes"]) == (True, told["bytes"])
    assert before - payload_bytes(refreshed) == told["bytes"]
    assert refreshed.json("gc", "--older-than", "0")["found"] == []
    assert refreshed.json("search", "smoke")["computed"] == 0


def test_what_ended_lately_is_left_alone_by_default(refreshed):
    assert "0 found" in refreshed("gc")


def test_a_finished_run_has_no_garbage(finished):
    assert finished.json("gc", "--older-than", "0")["found"] == []


def test_what_led_to_a_published_ranking_stays(refreshed):
    with closing(sqlite3.connect(refreshed.home / "mlflow.db")) as connection, connection:
        (old,) = connection.execute(
            "SELECT run_uuid FROM runs WHERE name LIKE 'ranking-%' ORDER BY start_time LIMIT 1"
        ).fetchone()
    publish(refreshed, old)
    labels = {found["what"] for found in refreshed.json("gc", "--older-than", "0")["found"]}
    assert not labels & {"ranking", "stage2 terse seed 0"}
    assert "agreement" in labels


def publish(ila, run_id):
    from mlflow import MlflowClient

    uri = f"sqlite:///{ila.home / 'mlflow.db'}"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    client.create_registered_model("layer-ranking.demo")
    client.create_model_version("layer-ranking.demo", f"runs:/{run_id}/payload", run_id=run_id)


def payload_bytes(ila):
    return sum(f.stat().st_size for f in ila.home.glob("artifacts/*/artifacts/payload/**/*.*"))
