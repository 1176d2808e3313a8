"""Deployments from their forms: what is refused, by whom and when, and schedules that collide."""

from __future__ import annotations

import logging
import subprocess
import sys
from typing import Any

import pytest
from prefect.utilities.callables import parameter_schema

from flows import deployments
from tests.conftest import ROOT, Ila
from tests.helpers.served import post

FLOWS = (deployments.search, deployments.finetune, deployments.evaluate, deployments.pipeline)


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_field_of_a_form_says_what_it_is(flow):
    fields = parameter_schema(flow).model_dump()["properties"]
    assert all(len(field["description"]) > 20 for field in fields.values())
    assert "finetune.lora.lr=2.0e-4" in str(fields["overrides"]["examples"])
    assert flow.description and flow.timeout_seconds


def test_the_form_offers_profiles_and_policies_as_choices():
    schema = parameter_schema(deployments.finetune).model_dump()
    choices = {name: one["enum"] for name, one in schema["definitions"].items()}
    assert "demo" in choices["ProfileName"] and "intersection" in choices["PolicyName"]


WRONG = {
    "unknown field 'finetune.nope'": {"overrides": ["finetune.nope=3"]},
    "needs `source:`": {},
    "--fit 'time=fast'": {"source": "terse", "fit": "time=fast"},
    "nowhere.json": {"source": "terse", "ranking": "nowhere.json"},
}
"""Of a fine-tuning of `smoke`, by what is said."""


def test_what_no_schema_can_refuse_ends_the_flow_before_torch(ila: Ila):
    program = f"""
import sys
from flows import deployments
for given in {list(WRONG.values())}:
    try:
        deployments.finetune.fn(profile=deployments.ProfileName("smoke"), **given)
    except Exception as error:
        print(str(error).splitlines()[0], [x for x in ("torch", "mlflow") if x in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=ila.environment,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    told = done.stdout.splitlines()
    assert len(told) == len(WRONG)
    for line, said in zip(told, WRONG, strict=True):
        assert said in line and line.endswith("[]")


def test_a_server_that_answers_late_is_tried_again_and_wrong_input_is_not(monkeypatch):
    waits: list[float] = []
    monkeypatch.setattr(deployments.time, "sleep", waits.append)
    monkeypatch.setattr(deployments, "get_run_logger", lambda: logging.getLogger("nowhere"))
    tries = iter([ConnectionError("down"), ConnectionError("down"), None])

    def act() -> None:
        if (error := next(tries)) is not None:
            raise error

    deployments._patiently(deployments.ProfileName("smoke"), act)
    assert waits == [60, 300]
    for final in (ValueError("wrong"), PermissionError("not you")):
        with pytest.raises(type(final)):
            deployments._patiently(deployments.ProfileName("smoke"), lambda e=final: _raise(e))
    assert waits == [60, 300]


@pytest.mark.servers
@pytest.mark.slow
@pytest.mark.parametrize(
    ("deployment", "wrong"),
    [
        ("search", {"profile": "smok"}),
        ("search", {"profile": "smoke", "overrides": ["search.keep"]}),
        ("finetune", {"profile": "smoke", "policy": "best"}),
        ("finetune", {"profile": "smoke", "ranking": "../../etc"}),
        ("finetune", {"profile": "smoke", "keep": 1.5}),
        ("evaluate", {"profile": "smoke", "limit": 0}),
        ("pipeline", {"profile": None}),
    ],
)
def test_wrong_values_are_refused_before_a_run_is_queued(servers, deployment, wrong):
    status, said = servers.submit(deployment, **wrong)
    assert status == 409, said
    given = [run["parameters"] for run in servers.ask("flow_runs")]
    assert not [one for one in given if wrong.items() <= one.items()]


@pytest.mark.servers
@pytest.mark.slow
def test_a_schedule_that_fires_while_the_last_run_still_runs_waits_for_it(servers):
    (_, first), (_, second) = (servers.submit("search", profile="smoke") for _ in range(2))
    assert moved(servers, first, "PENDING") == ("ACCEPT", "PENDING")
    assert moved(servers, second, "PENDING") == ("REJECT", "SCHEDULED")
    (waits,) = servers.ask("flow_runs", flow_runs={"id": {"any_": [second["id"]]}})
    assert waits["state_name"] == "AwaitingConcurrencySlot"
    assert moved(servers, first, "CANCELLED")[0] == "ACCEPT"
    assert moved(servers, second, "PENDING", force=True) == ("ACCEPT", "PENDING")
    assert moved(servers, second, "CANCELLED", force=True)[0] == "ACCEPT"


def moved(servers: Any, run: dict[str, Any], state: str, force: bool = False) -> tuple[str, str]:
    """What the server made of a worker's wish, and the state it gave."""
    url = f"{servers.prefect}/api/flow_runs/{run['id']}/set_state"
    answer = post(url, {"state": {"type": state}, "force": force})
    return answer["status"], answer["state"]["type"]


def _raise(error: Exception) -> None:
    raise error
