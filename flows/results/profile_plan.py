"""The plan of a profile: its pipeline and the cached steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flows.pipeline import Pipeline, ila_pipeline
from ila_core.config import Profile, RuntimeConfig
from ila_core.config.load import load_profile
from ila_core.resolve import Lock
from ila_core.search.ranking_reference import ResolvedRanking
from tasks.cache.lookup import open_lookup
from tasks.cache.plan import Planned, plan
from tasks.steps.data.prepare import statistics


@dataclass(frozen=True)
class ProfilePlan:
    """A profile, its pipeline and the state of every step."""

    profile: Profile
    pipeline: Pipeline
    steps: list[Planned]
    ranking: ResolvedRanking | None = None
    """The ranking that fine-tuning reads; `None`: the profile's own search."""


def rows_of_datasets(planned: ProfilePlan) -> dict[str, dict[str, Any]]:
    """Say what becomes of each dataset's rows (`prepared.json`), by trying where nobody has.

    Raises:
        UserError: a dataset or a chat template that preparing the rows would refuse.
    """
    steps = [p.step for p in planned.steps if p.step.name == "prepare" and p.step.key is not None]
    return {step.given["dataset"].name: statistics(step) for step in steps}


def plan_profile(
    given: str, overrides: Sequence[str], *, rehash: bool = False, online: bool = False,
    until: str = "report",
) -> ProfilePlan:  # fmt: skip
    """Plan the profile called `given`; `online` resolves revisions on the hub."""
    return plan_of(load_profile(given, overrides), until=until, rehash=rehash, online=online)


def plan_of(
    profile: Profile, *, until: str, ranking: ResolvedRanking | None = None, rehash: bool = False,
    online: bool = True,
) -> ProfilePlan:  # fmt: skip
    """Plan a loaded profile, optionally with a ranking that was made elsewhere (`resolve`)."""
    runtime = RuntimeConfig.from_env()
    pipeline = ila_pipeline(profile, Lock(runtime.home, online=online, rehash=rehash), ranking)
    known = plan(pipeline.steps(until), open_lookup(runtime, profile.model.name))
    return ProfilePlan(profile, pipeline, known, ranking)
