"""What each role may do on an MLflow server with accounts, and what nobody can be kept from."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from requests import HTTPError

from flows.doctor.servers import mlflow as examine_mlflow
from flows.results.check import Check
from ila_core.config import RuntimeConfig
from tasks.tracking.accounts import Role, ranking_name
from tests.helpers.served import PASSWORD, login

pytestmark = [pytest.mark.servers, pytest.mark.slow]

NAME = ranking_name("demo")


@pytest.fixture
def client(servers, monkeypatch) -> Callable[[Role], MlflowClient]:
    """MLflow's client as somebody; who that is holds until it is asked for again."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

    def become(role: Role) -> MlflowClient:
        for name, value in login(role).items():
            monkeypatch.setenv(name, value)
        return MlflowClient(tracking_uri=servers.mlflow, registry_uri=servers.mlflow)

    return become


@pytest.fixture
def published(client, tmp_path) -> str:
    """The run of a ranking that the publisher has published as `champion`."""
    publisher = client(Role.PUBLISHER)
    experiment = publisher.get_experiment_by_name("ila/demo").experiment_id
    run = publisher.create_run(experiment).info.run_id
    file = tmp_path / "ranking.json"
    file.write_text(json.dumps({"scores": {}}))
    publisher.log_artifact(run, str(file), "ranking")
    version = publisher.create_model_version(NAME, f"runs:/{run}/ranking", run)
    publisher.set_registered_model_alias(NAME, "champion", version.version)
    return run


def test_a_reader_pulls_and_can_neither_cache_nor_publish(client, published, tmp_path):
    reader = client(Role.READER)
    assert pulled(reader, tmp_path) == {"scores": {}}
    experiment = reader.get_experiment_by_name("ila/demo").experiment_id
    for attempt in (
        lambda: reader.create_run(experiment),
        lambda: reader.set_tag(published, "ila.state", "superseded"),
        lambda: reader.log_artifact(published, __file__, "ranking"),
        *publishing(reader, published),
    ):
        assert refused(attempt)


def test_a_member_caches_steps_and_cannot_publish_or_remove(client, published, tmp_path):
    member = client(Role.MEMBER)
    assert pulled(member, tmp_path) == {"scores": {}}
    experiment = member.get_experiment_by_name("ila/demo").experiment_id
    run = member.create_run(experiment).info.run_id
    member.log_artifact(run, __file__, "payload")
    for attempt in (lambda: member.delete_run(run), *publishing(member, published)):
        assert refused(attempt)
    # Whoever may write the experiment is trusted with the cache: also what others computed.
    member.set_tag(published, "trusted", "yes")


def test_a_publisher_moves_aliases_and_removes_runs(client, published):
    publisher = client(Role.PUBLISHER)
    for act in publishing(publisher, published):
        act()
    publisher.delete_run(published)


def test_every_account_can_make_names_that_nobody_reserved(client):
    for role in (Role.READER, Role.MEMBER):
        one = client(role)
        made = one.create_experiment(f"ila/not-reserved-{role}")
        one.create_run(made)  # it is theirs now, and a reader's as well
        one.create_registered_model(ranking_name(f"not-reserved-{role}"))
        assert refused(lambda one=one: one.create_registered_model(NAME))


def test_an_account_gets_another_role_and_loses_the_one_before(servers, client, published, ila):
    admin = servers.ila.environment | login("admin")
    add = ("servers", "account", "ann", "--role")
    told = servers.ila(*add, "member", **admin | {"ILA_ACCOUNT_PASSWORD": PASSWORD})
    assert told.startswith("ann: member") and PASSWORD not in told
    ann = client("ann")
    experiment = ann.get_experiment_by_name("ila/demo").experiment_id
    ann.create_run(experiment)
    servers.ila(*add, "reader", **admin | {"ILA_ACCOUNT_PASSWORD": "unused"})
    assert refused(lambda: client("ann").create_run(experiment))
    assert "unknown role 'redaer'" in servers.ila(*add, "redaer", expect=2, **admin)


def test_doctor_says_as_whom_and_what_that_account_may(servers, client, monkeypatch):
    def examined() -> dict[str, Check]:
        runtime = RuntimeConfig(home=servers.folder, tracking_uri=servers.mlflow)
        return {check.name: check for check in examine_mlflow(runtime)}

    client(Role.MEMBER)
    found = examined()
    assert "member: reads everything, caches steps in ila/demo, ila/" in found["account"].found
    client(Role.READER)
    assert "ila/demo" not in examined()["account"].found
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    (wrong,) = examined().values()
    assert wrong.state == "failed" and "the password of account 'reader'" in wrong.advice
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    (nobody,) = examined().values()
    assert "asks who you are" in nobody.advice


def test_a_wrong_password_ends_a_run_with_one_message(servers):
    said = servers.ila("run", "smoke", expect=1, MLFLOW_TRACKING_PASSWORD="wrong")
    assert "does not take the password of account 'member'" in said
    assert "Traceback" not in said and "wrong" not in said.replace("wrong user", "")


def publishing(client: MlflowClient, run: str) -> list[Callable[[], Any]]:
    """What publishing a ranking is made of."""
    return [
        lambda: client.create_model_version(NAME, f"runs:/{run}/ranking", run),
        lambda: client.set_registered_model_alias(NAME, "champion", "1"),
        lambda: client.delete_registered_model_alias(NAME, "champion"),
        lambda: client.set_registered_model_tag(NAME, "a", "b"),
    ]


def pulled(client: MlflowClient, folder: Any) -> Any:
    version = client.get_model_version_by_alias(NAME, "champion")
    got = client.download_artifacts(version.run_id, "ranking/ranking.json", str(folder))
    return json.loads(Path(got).read_text())


def refused(attempt: Callable[[], Any]) -> bool:
    """Whether the server let this account not do it (another error is none)."""
    try:
        attempt()
    except (MlflowException, HTTPError) as error:
        said = str(error)
        assert "403" in said or "RESOURCE_ALREADY_EXISTS" in said, said
        return True
    return False
