"""What names cost: resolving an alias among 10,000 published rankings, a plan on 10,000 step runs.

    python benchmarks/registry.py [--profile smoke] [--quick] [--json]

The rankings are 1,000 base models with 10 versions each, and an alias `champion` on the last. They
are written through MLflow's registry store in Python, with their payloads where a server with
proxied artifacts keeps them, and resolved over HTTP from a real server: alias, size, document,
digest and fingerprint, each one for the first time on this machine. The plan is `ila plan` of a
whole profile in a process of its own, on the embedded store, twice: all of its steps cached among
10,000 others, and next to none, which has the nearest of 200 runs of every kind found and compared.
`--quick` takes a tenth of everything.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

from mlflow.entities.model_registry import ModelVersionTag, RegisteredModelTag
from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as RegistryStore
from mlflow.store.tracking.dbmodels.models import SqlParam, SqlRun, SqlTag
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore as TrackingStore
from record import Tolerance, recorded
from sqlalchemy import event, insert

from flows.pipeline import ila_pipeline
from ila_core.config import RuntimeConfig
from ila_core.config.load import load_profile
from ila_core.keys import digest_of
from ila_core.models.layers import fingerprint
from ila_core.resolve import Lock
from ila_core.search.ranking import DOCUMENT, LayerScores, Ranking
from ila_core.search.ranking_reference import Published
from tasks.cache.payloads import MEASUREMENTS, PAYLOAD, payload_digest
from tasks.cache.step import Step, in_order
from tasks.cache.step_run import StepRun, upstream_digest
from tasks.tracking.ranking_version import PREFIX
from tasks.tracking.registry import Registry

TOLERANCE: Tolerance = {
    **dict.fromkeys(("plan_steps", "rankings", "step_runs"), (0.0, 0.0)),
    "*": (0.5, 0.0),
}
VERSIONS = 10
SAMPLE = 50
MISSING = "data.max_length=40"
"""An override that reaches nearly every step."""


class Stores:
    """MLflow's tables in one SQLite file, written without waiting for the disk."""

    def __init__(self, file: Path, artifacts: str) -> None:
        uri = f"sqlite:///{file}"
        self._artifacts = artifacts
        self.tracking = TrackingStore(uri, artifacts)
        self.registry = RegistryStore(uri)
        for store in (self.tracking, self.registry):
            event.listen(store.engine, "connect", _hasten)
            store.engine.dispose()

    def add_runs(self, experiment: str, runs: Sequence[Run]) -> None:
        """FINISHED runs, in one transaction: a store call for each would take an hour."""
        now = time.time_ns() // 10**6
        rows = [
            {
                "run_uuid": run.run_id, "name": run.tags["ila.step"], "user_id": "",
                "status": "FINISHED", "start_time": now, "end_time": now + 1,
                "lifecycle_stage": "active", "source_type": "UNKNOWN",
                "experiment_id": int(experiment),
                "artifact_uri": f"{self._artifacts}/{experiment}/{run.run_id}/artifacts",
            }
            for run in runs
        ]  # fmt: skip
        pairs = {SqlTag: "tags", SqlParam: "params"}
        with self.tracking.ManagedSessionMaker() as session:
            session.execute(insert(SqlRun), rows)
            for table, kind in pairs.items():
                values = [
                    {"run_uuid": run.run_id, "key": name, "value": value}
                    for run in runs
                    for name, value in getattr(run, kind).items()
                ]
                if values:
                    session.execute(insert(table), values)


@dataclass
class Run:
    """A step run to be written."""

    tags: dict[str, str]
    params: dict[str, str] = field(default_factory=dict)
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)


def _hasten(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA synchronous = OFF")


def a_ranking(name: str, rng: random.Random) -> Ranking:
    """43 layers, three datasets, one seed, and random scores."""
    types = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    names = [(b, t, f"model.layers.{b}.{t}") for b in range(6) for t in types]
    datasets = ("lima", "dolly", "alpaca_gpt4")
    layers = tuple(
        LayerScores(
            name=layer, block=b, type=t, shape=(192, 192),
            scores={d: {"0": rng.random()} for d in datasets},
        )
        for b, t, layer in [*names, (None, "lm_head", "lm_head")]
    )  # fmt: skip
    key = f"{rng.getrandbits(48):012x}"
    return Ranking(
        base_model=name, model={"files": "a" * 64}, architecture=fingerprint(layers), key=key,
        scorer="ila", keep=0.75, score_keys={d: {"0": key} for d in datasets},
        stable={d: {"0": True} for d in datasets}, unsure=dict.fromkeys(datasets),
        data_keys=dict.fromkeys(datasets, key), settings={}, layers=layers, versions={},
    )  # fmt: skip


def publish_all(stores: Stores, artifacts: Path, models: int) -> None:
    """`models` names with `VERSIONS` rankings each, as `ila rankings publish` leaves them."""
    rng = random.Random(0)
    for number in range(models):
        name = f"base-{number:04}"
        experiment = stores.tracking.create_experiment(f"ila/{name}")
        made = [a_ranking(name, rng) for _ in range(VERSIONS)]
        architecture = RegisteredModelTag("ila.architecture", made[0].architecture)
        stores.registry.create_registered_model(PREFIX + name, [architecture])
        runs = [_kept(ranking, artifacts / experiment) for ranking in made]
        stores.add_runs(experiment, runs)
        for ranking, run in zip(made, runs, strict=True):
            known = {"ila.digest": ranking.digest, "ila.key": ranking.key, "ila.step": "ranking"}
            known |= {"ila.base_model": name, "ila.architecture": ranking.architecture}
            known |= {"ila.scorer": "ila", "ila.datasets": ", ".join(ranking.datasets)}
            version = stores.registry.create_model_version(
                PREFIX + name,
                f"runs:/{run.run_id}/{PAYLOAD}",
                run.run_id,
                [ModelVersionTag(tag, value) for tag, value in known.items()],
            )
        stores.registry.set_registered_model_alias(PREFIX + name, "champion", version.version)


def _kept(ranking: Ranking, folder: Path) -> Run:
    """The run of a ranking whose payload was written below `folder`."""
    run = Run(
        {"ila.key": ranking.key, "ila.step": "ranking", "ila.version": "1", "ila.state": "valid"}
        | {"ila.upstream": "0" * 64, "ila.label": "ranking"}
    )
    payload = folder / run.run_id / "artifacts" / PAYLOAD
    payload.mkdir(parents=True)
    ranking.save(payload / DOCUMENT)
    (payload / MEASUREMENTS).write_text('{"seconds": 1}')
    run.tags["ila.digest"] = payload_digest(payload)
    return run


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """An MLflow server over the tables and artifacts in `folder`; its address."""
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"),
        *("--backend-store-uri", f"sqlite:///{folder}/mlflow.db"),
        *("--artifacts-destination", str(folder / "artifacts")),
    ]
    with (folder / "server.log").open("w") as log:
        # Its job runner's processes would start beside the first requests; nothing here needs them.
        environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        server = subprocess.Popen(
            command, stdout=log, stderr=log, env=environment, start_new_session=True
        )
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urlopen(f"{address}/health", timeout=1).close()
                break
            except (URLError, OSError):
                time.sleep(0.5)
        else:
            sys.exit(f"the server did not start: {(folder / 'server.log').read_text()[-2000:]}")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def resolve_all(folder: Path, models: int) -> dict[str, float]:
    """Milliseconds to resolve `champion` of `SAMPLE` names, each for the first time."""
    names = random.Random(1).sample(range(models), min(SAMPLE, models))
    with serving(folder) as address:
        runtime = RuntimeConfig(home=folder / "reader", tracking_uri=address)
        start = time.perf_counter()
        registry = Registry(runtime)
        opened = time.perf_counter() - start
        taken = []
        for number in names:
            start = time.perf_counter()
            found = registry.find(Published(f"base-{number:04}", "champion", None))
            ranking = registry.read(found)
            taken.append(time.perf_counter() - start)
            assert found.number == VERSIONS and ranking.base_model == f"base-{number:04}"
    return {
        "resolve_ms": 1000 * statistics.median(taken),
        "resolve_ms_best": 1000 * min(taken),
        "resolve_ms_p95": 1000 * sorted(taken)[int(0.95 * (len(taken) - 1))],
        "open_client_ms": 1000 * opened,
    }


def fill(stores: Stores, profile: str, home: Path, runs: int) -> int:
    """Every step of the profile as if finished, and others like them up to `runs`; their number."""
    loaded = load_profile(profile)
    pipeline = ila_pipeline(loaded, Lock(home, online=False))
    steps = in_order(*pipeline.targets("report"))
    experiment = stores.tracking.create_experiment(f"ila/{loaded.model.name}")
    digests: dict[str, StepRun] = {}
    rng = random.Random(0)
    written = []
    for number in range(runs):
        step = steps[number % len(steps)]
        if number < len(steps):
            key, fields = str(step.key), step.fields
            upstream = upstream_digest({n: digests[str(s.key)] for n, s in step.inputs.items()})
        else:
            key, fields = f"{rng.getrandbits(48):012x}", _changed(step, rng)
            upstream = digest_of(key)
        tags = {"ila.key": key, "ila.step": step.name, "ila.version": str(step.version)}
        tags |= {"ila.state": "valid", "ila.upstream": upstream, "ila.label": step.label}
        tags |= {"ila.digest": digest_of([key]), "ila.owner": "other:1:1", "ila.heartbeat": "0"}
        run = Run(tags, {name: value[:6000] for name, value in fields.items()})
        written.append(run)
        digests.setdefault(key, StepRun(run.run_id, "FINISHED", 0, "", tags, {}))
    for start in range(0, runs, 500):
        stores.add_runs(experiment, written[start : start + 500])
    return len(steps)


def _changed(step: Step, rng: random.Random) -> dict[str, str]:
    """The fields of a step that differs in one of them and in its inputs."""
    fields = {n: v if not n.startswith("input.") else f"{rng.getrandbits(48):012x}"
              for n, v in step.fields.items()}  # fmt: skip
    return fields | {rng.choice(sorted(fields)): str(rng.random())}


def plan_seconds(
    profile: str, home: Path, overrides: Sequence[str]
) -> tuple[dict[str, float], dict[str, int]]:
    """The best of three of `ila plan`, by the clock and in processor time, which other work on the
    machine hardly touches; and how many steps had which state."""
    environment = {**os.environ, "ILA_HOME": str(home)}
    environment.pop("MLFLOW_TRACKING_URI", None)
    command = [sys.executable, "-m", "flows.cli.app", "plan", profile, "--json"]
    command += [word for override in overrides for word in ("--set", override)]
    taken: dict[str, list[float]] = {"seconds": [], "cpu_seconds": []}
    states: dict[str, int] = {}
    for _ in range(3):
        start, used = time.perf_counter(), _children_seconds()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        taken["seconds"].append(time.perf_counter() - start)
        taken["cpu_seconds"].append(_children_seconds() - used)
        if done.returncode:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
        found = [step["state"] for step in json.loads(done.stdout)["steps"]]
        states = {state: found.count(state) for state in sorted(set(found))}
    return {what: min(values) for what, values in taken.items()}, states


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure(profile: str, quick: bool) -> dict[str, Any]:
    part = 10 if quick else 1
    models, runs = 1000 // part, 10_000 // part
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.perf_counter()
        publish_all(Stores(folder / "mlflow.db", "mlflow-artifacts:"), folder / "artifacts", models)
        published = time.perf_counter() - start
        result: dict[str, Any] = resolve_all(folder, models)
        home = folder / "home"
        home.mkdir()
        start = time.perf_counter()
        steps = fill(Stores(home / "mlflow.db", str(home / "artifacts")), profile, home, runs)
        filled = time.perf_counter() - start
        cached, cached_states = plan_seconds(profile, home, [])
        missing, missing_states = plan_seconds(profile, home, [MISSING])
    assert cached_states == {"HIT": steps}, cached_states
    assert missing_states["MISS"] > 0.9 * steps, missing_states  # the base's evaluation stays
    return {
        **result,
        "plan_seconds": max(cached["seconds"], missing["seconds"]),
        "plan_cpu_seconds": max(cached["cpu_seconds"], missing["cpu_seconds"]),
        "plan_all_cached": cached,
        "plan_next_to_none_cached": missing,
        "plan_steps": steps,
        "rankings": models * VERSIONS,
        "step_runs": runs,
        "profile": profile,
        "quick": quick,
        "seconds_to_publish_all": published,
        "seconds_to_fill": filled,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="smoke")
    parser.add_argument("--quick", action="store_true", help="1,000 rankings, 1,000 step runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = measure(args.profile, args.quick)
    if args.json:
        print(json.dumps(recorded(result, TOLERANCE), indent=1))
        return
    print(
        f"among {result['rankings']:,} rankings an alias resolves in {result['resolve_ms']:.0f} ms "
        f"(median of {SAMPLE}; 95 %: {result['resolve_ms_p95']:.0f} ms)"
    )
    print(
        f"on {result['step_runs']:,} step runs `ila plan {args.profile}` takes "
        f"{result['plan_all_cached']['seconds']:.2f} s where all {result['plan_steps']} steps are "
        f"cached, {result['plan_next_to_none_cached']['seconds']:.2f} s where next to none is "
        "(best of 3)"
    )


if __name__ == "__main__":
    main()
