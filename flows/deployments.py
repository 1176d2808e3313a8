"""What a Prefect server offers to be started: its form in the UI, and the command it stands for.

A value that the form's schema can refuse is refused before a run is queued (409); one that it
cannot, a field of a profile that does not exist say, ends the run as its first act, before torch is
imported. Each flow calls what the command of its name calls: there is no second way to compute.
"""

# No `from __future__ import annotations`: Prefect makes the form from the annotations themselves.

import time
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

from prefect import flow, get_run_logger, tags
from prefect.runtime import flow_run
from pydantic import Field

from flows.plan.refresh import NOTHING, Refresh
from ila_core.config.load import shipped
from ila_core.errors import first_line
from ila_core.evaluate.benchmarks import BENCHMARKS
from ila_core.search.ranking_fit import RELATIONS
from ila_core.search.ranking_reference import PATTERN
from ila_core.selection.policies import POLICIES
from ila_core.train.methods import METHODS

ProfileName = StrEnum("ProfileName", {n: n for n in shipped("runs")})  # type: ignore[misc]
PolicyName = StrEnum("PolicyName", {n: n for n in POLICIES})  # type: ignore[misc]
MethodName = StrEnum("MethodName", {n: n for n in METHODS})  # type: ignore[misc]
RelationName = StrEnum("RelationName", {n: n for n in RELATIONS})  # type: ignore[misc]
BenchmarkName = StrEnum("BenchmarkName", {n: n for n in BENCHMARKS})  # type: ignore[misc]

_ILA = PolicyName("ila")

Override = Annotated[str, Field(pattern=r"^[a-z0-9_]+(\.[A-Za-z0-9_\-]+)*=.+$")]
Overrides = Annotated[
    list[Override],
    Field(examples=[["finetune.lora.lr=2.0e-4", "search.keep=0.5"]]),
]
Steps = Annotated[list[str], Field(examples=[["stage2"], ["key:0123456789ab"]])]
# Text that may be left out is "" and not None, for which the UI would show a switch and no field.
Ranking = Annotated[
    str,
    Field(
        pattern=f"^$|{PATTERN}",
        examples=["stories3m@champion", "mistral-7b/3", "key:0123456789ab"],
    ),
]
Source = Annotated[str, Field(examples=["lima"])]
Fit = Annotated[str, Field(pattern=r"^$|^(memory|params|time)=\d", examples=["memory=24GiB"])]
Keep = Annotated[float, Field(gt=0, le=1)]

_PAUSES = (60.0, 300.0, 900.0)
"""Seconds before the second, third and fourth try, where a server did not answer."""

_HOUR = 3600.0


def _run_name() -> str:
    """`finetune demo ila stories3m@champion`: what a list of runs needs to tell them apart."""
    given = flow_run.parameters
    told = [given.get(name) for name in ("profile", "policy", "ranking")]
    return " ".join([str(flow_run.flow_name).removeprefix("ila-"), *(str(x) for x in told if x)])


@flow(name="ila-search", flow_run_name=_run_name, timeout_seconds=72 * _HOUR)
def search(
    profile: ProfileName,
    overrides: Overrides = [],  # noqa: B006
    refresh: Steps = [],  # noqa: B006
    reason: str | None = None,
) -> None:
    """Rank the layers of a profile's base model, and say how far its datasets agree.

    Args:
        profile: a run profile that comes with ILA; its base model and datasets are searched.
        overrides: fields of the profile to change, each `a.b=c`; none by default.
        refresh: steps to compute again although they are cached: a kind or `key:<12 hex>`.
        reason: why they are; it stays beside what they replace.
    """
    _until("search", profile, overrides, refresh, reason)


@flow(name="ila-finetune", flow_run_name=_run_name, timeout_seconds=72 * _HOUR)
def finetune(
    profile: ProfileName,
    ranking: Ranking = "",
    relation: RelationName | None = None,
    policy: PolicyName = _ILA,
    source: Source = "",
    keep: Keep | None = None,
    fit: Fit = "",
    method: MethodName | None = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Train only the layers that matter, by a ranking that somebody published, and evaluate it.

    Args:
        profile: a run profile that comes with ILA: how it is trained, and on what.
        ranking: `name@alias` or `name/version` of a published one, `key:<12 hex>` of one in the
            cache, or a .json file that the worker can read; empty: the profile's own search.
        relation: how the profile's base model is related to the one that was searched, where the
            two are not the same; empty: they are.
        policy: how the ranking decides which layers train; `ila` keeps the most important.
        source: the dataset whose scores decide; `ila`, `per_cost`, `reversed` and other policies
            that read one dataset's scores need it.
        keep: fraction of the layers that train, above 0 and at most 1; the ranking's own if empty.
        fit: what the training must fit into, in place of `keep`: memory=24GiB, params=20M, time=2h.
        method: how the layers are trained; the profile's own if empty.
        overrides: fields of the profile to change, each `a.b=c`; none by default.
    """
    from flows.actions.finetune import arm_of, run_finetune

    arm = arm_of(policy=policy.value, source=source or None, method=method and method.value,
                 limits={"keep": keep}, fit=fit or None)  # fmt: skip
    _patiently(
        profile,
        lambda: run_finetune(
            profile.value, overrides, arm, ranking=ranking or None,
            relation=relation and relation.value, refresh=NOTHING, out=None, as_json=False,
        ),
    )  # fmt: skip


@flow(name="ila-evaluate", flow_run_name=_run_name, timeout_seconds=24 * _HOUR)
def evaluate(
    profile: ProfileName,
    models: list[str] = [],  # noqa: B006
    benchmarks: list[BenchmarkName] = [],  # noqa: B006
    limit: Annotated[int, Field(ge=1)] | None = None,
    overrides: Overrides = [],  # noqa: B006
) -> None:
    """Measure a profile's models on benchmarks, each once.

    Args:
        profile: a run profile that comes with ILA: how its models are trained and evaluated.
        models: `base`, or arms of the profile; all of them if empty.
        benchmarks: on what; the profile's own if empty.
        limit: questions per task, for a first look; all of them if empty.
        overrides: fields of the profile to change, each `a.b=c`; none by default.
    """
    from flows.actions.evaluate import run_evaluate

    given = [f"{profile.value}/{name}" for name in models] or [profile.value]
    _patiently(
        profile,
        lambda: run_evaluate(
            given, None, benchmarks=[b.value for b in benchmarks], limit=limit,
            overrides=overrides, refresh=NOTHING, jobs=1, as_json=False,
        ),
    )  # fmt: skip


@flow(name="ila-pipeline", flow_run_name=_run_name, timeout_seconds=168 * _HOUR)
def pipeline(
    profile: ProfileName,
    overrides: Overrides = [],  # noqa: B006
    refresh: Steps = [],  # noqa: B006
    reason: str | None = None,
) -> None:
    """Search, fine-tune beside the controls, evaluate, and write the report.

    Args:
        profile: a run profile that comes with ILA.
        overrides: fields of the profile to change, each `a.b=c`; none by default.
        refresh: steps to compute again although they are cached: a kind or `key:<12 hex>`.
        reason: why they are; it stays beside what they replace.
    """
    _until("report", profile, overrides, refresh, reason)


def _until(
    until: str, profile: ProfileName, overrides: list[str], refresh: list[str], reason: str | None
) -> None:
    from flows.actions.run import run_until

    again = Refresh.asked(refresh, reason)
    _patiently(
        profile,
        lambda: run_until(until, profile.value, overrides, again, rehash=False, as_json=False),
    )


def _patiently(profile: ProfileName, act: Callable[[], Any]) -> None:
    """Do it, and again after growing pauses where a server did not answer.

    Not Prefect's own retries: those also repeat what will fail again, such as wrong input.
    """
    with tags(f"profile:{profile.value}"):
        for pause in _PAUSES:
            try:
                act()
                return
            except ConnectionError as error:
                get_run_logger().warning("again in %.0f s: %s", pause, first_line(error))
                time.sleep(pause)
        act()
