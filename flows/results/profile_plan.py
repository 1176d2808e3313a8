"""The plan of a profile: its pipeline and the cached steps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flows.pipeline import Pipeline, ila_pipeline
from ila_core.config import Profile, RuntimeConfig
from ila_core.config.load import Given, load_profile, written
from ila_core.errors import UserError
from ila_core.resolve import Lock
from ila_core.search.ranking_reference import ResolvedRanking
from tasks.cache.lookup import open_lookup
from tasks.cache.plan import Planned, plan
from tasks.steps.data.prepare import statistics
from tasks.steps.search.stage1 import check_batch, check_rows


@dataclass(frozen=True)
class ProfilePlan:
    """A profile, its pipeline and the state of every step."""

    given: Profile
    """The profile as it was written."""
    pipeline: Pipeline
    steps: list[Planned]
    ranking: ResolvedRanking | None = None
    """The ranking that fine-tuning reads; `None`: the profile's own search."""

    @property
    def profile(self) -> Profile:
        """Complete, with every default filled in."""
        return self.pipeline.profile


def rows_of_datasets(planned: ProfilePlan) -> dict[str, dict[str, Any]]:
    """Say what becomes of each dataset's rows (`prepared.json`), by trying where nobody has.

    Raises:
        UserError: a dataset or a chat template that preparing the rows would refuse, or one with
            too few rows to be searched.
    """
    steps = [p.step for p in planned.steps if p.step.name == "prepare" and p.step.key is not None]
    found = {step.given["names"]["dataset"]: statistics(step) for step in steps}
    for name in planned.profile.search.datasets:
        if name in found:
            check_rows(found[name]["rows"], planned.profile.search)
    for step in (p.step for p in planned.steps if p.step.name == "finetune"):
        optimizer = step.given["settings"].optimizer
        name = step.inputs["data"].given["names"]["dataset"]
        if name in found:
            check_batch("finetune.optimizer.batch_size", optimizer, found[name]["rows"])
    return found


def save_profile(given: Given, overrides: Sequence[str], path: Path) -> None:
    """Write the fields that somebody has given to a file, which is a profile then.

    Raises:
        UserError: the file is there already, is no `.yaml`, or cannot be written.
    """
    import yaml

    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"--save {path}: a profile is a .yaml file")
    tree, _ = written(given, overrides)
    tree.pop("name", None)  # the file's from now on
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"# ila run {path}\n{text}")
    except FileExistsError as error:
        raise UserError(f"--save {path}: it is there already; give a new name") from error
    except OSError as error:
        raise UserError(f"--save {path}: {error.strerror}") from error


def plan_profile(
    given: Given, overrides: Sequence[str], *, rehash: bool = False, online: bool = False,
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
