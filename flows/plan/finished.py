"""Finding finished results: reports by profile, fine-tunings by key."""

import re

from ila_core.config import RuntimeConfig
from ila_core.config.load import load_profile
from ila_core.errors import UserError
from tasks.cache.lookup import open_lookup
from tasks.cache.step_run import StepRun

_KEY = re.compile(r"^key:([0-9a-f]{12})$")


def find_report(reference: str) -> StepRun:
    """Find the newest finished report of a profile, or the report with a key.

    Raises:
        UserError: when there is no finished report for the reference.
    """
    runtime = RuntimeConfig.from_env()
    if match := _KEY.match(reference):
        runs = open_lookup(runtime).finished(match[1])
        return _first(runs, "report", f"no finished step has {reference}")
    profile = load_profile(reference)
    runs = open_lookup(runtime, profile.model.name).finished_steps("report")
    mine = [run for run in runs if run.params.get("profile.name") == f'"{profile.name}"']
    return _first(mine, "report", f"no run of profile {profile.name!r} has finished yet; "
                  f"start one with `ila run {reference}`")  # fmt: skip


def find_finetuning(reference: str) -> StepRun:
    """Find the finished fine-tuning that `key:<12 hex>` names.

    Raises:
        UserError: when there is none.
    """
    if not (match := _KEY.match(reference)):
        raise UserError(f"{reference!r} is no fine-tuning: give key:<12 hex>, as runs print it")
    runs = open_lookup(RuntimeConfig.from_env()).finished(match[1])
    return _first(runs, "finetune", f"no finished step has {reference}")


def _first(runs: list[StepRun], step: str, otherwise: str) -> StepRun:
    for run in runs:
        if run.tags["ila.step"] == step:
            return run
    found = f" (that key is a {runs[0].tags['ila.step']})" if runs else ""
    raise UserError(otherwise + found)
