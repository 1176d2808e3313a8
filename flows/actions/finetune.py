"""`ila finetune` and `ila forecast`: train one arm from any ranking, or forecast its cost."""

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import ValidationError

from flows.actions.run import finished
from flows.plan.references import resolve
from flows.plan.refresh import Refresh
from flows.results.profile_plan import ProfilePlan, plan_of
from flows.views.finetune import show_finetune, show_forecast
from ila_core.compare.results import Evaluation
from ila_core.config import ArmConfig, Profile, RuntimeConfig
from ila_core.config.derived import longest_row
from ila_core.config.load import Given, load_profile
from ila_core.data.prepared import longest
from ila_core.errors import UserError, unknown_name
from ila_core.search.ranking import Ranking, order
from ila_core.search.ranking_fit import RELATIONS
from ila_core.search.ranking_reference import ResolvedRanking
from ila_core.selection.select import budget_table, lora_parameters, reads_keep, required_datasets
from ila_core.train.forecast import Forecast
from tasks.cache.lookup import open_lookup
from tasks.cache.payloads import MEASUREMENTS, fetch, read_json
from tasks.cache.step import Step
from tasks.cache.step_run import StepRun
from tasks.steps.finetune.selection import load, tokens_to_train
from tasks.steps.search.ranking import gather

FRACTIONS = (0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
ARM = "given"
"""The name of the one arm that `ila finetune` trains."""

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_TIMES = {"s": 1, "min": 60, "h": 3600, "d": 86400}


def arm_of(
    *,
    policy: str | None,
    source: str | None,
    method: str | None,
    limits: Mapping[str, float | int | None],
    fit: str | None,
) -> ArmConfig:
    """Build the arm that the options of a command describe; with `fit` its policy is `per_cost`.

    Raises:
        UserError: when options contradict each other, or a limit cannot be parsed.
    """
    given = {field: limit for field, limit in limits.items() if limit is not None}
    if fit is not None:
        given |= parse_fit(fit)
    # A number that `finetune` replaces with what this machine was measured at.
    speed = {"flops_per_second": 1.0} if "seconds" in given else {}
    chosen = policy or ("per_cost" if fit else "ila")
    fields = {"name": ARM, "policy": chosen, "source": source, "method": method}
    try:
        return ArmConfig.model_validate(fields | given | speed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        raise UserError(f"--{where}: {message}" if where else message) from error


def parse_fit(given: str) -> dict[str, float | int]:
    """Parse `memory=24GiB`, `params=20M` or `time=2h` to a limit of an arm.

    Raises:
        UserError: when `given` has another form.
    """
    what, _, amount = given.partition("=")
    known = {"memory": "memory", "params": "parameters", "time": "seconds"}
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", amount)
    units = _TIMES if what == "time" else _UNITS
    if what not in known or found is None or found[2] not in units:
        raise UserError(
            f"--fit {given!r} cannot be read; write memory=24GiB, params=20M or time=2h "
            f"(units: {', '.join(u for u in _UNITS if u)}; {', '.join(_TIMES)})"
        )
    value = float(found[1]) * units[found[2]]
    return {known[what]: value if what == "time" else round(value)}


def run_finetune(
    given: Given,
    overrides: Sequence[str],
    arm: ArmConfig,
    *,
    ranking: str | None,
    relation: str | None,
    refresh: Refresh,
    out: Path | None,
    as_json: bool,
) -> None:
    """Train one arm with every fine-tuning seed, evaluate it, and show why it has these layers."""
    if out is not None and out.exists() and any(out.iterdir()):
        raise UserError(f"--out {out} is not empty; give a folder that does not exist yet")
    profile = load_profile(given, overrides)
    arm = _with_machine(profile, arm)
    found = resolve(ranking) if ranking else None
    profile = related(profile, found, relation)
    document = found.ranking if found else None
    if document is None:
        required_datasets(arm, list(profile.search.datasets))
    else:
        arm = _of_ranking(document, arm)
    profile = with_arm(profile, arm, searched=document is None)
    planned = plan_of(profile, until="finetune", ranking=found)
    runs = finished(planned, "finetune", refresh)
    arms = planned.pipeline.arms
    document = document or _own_ranking(arms.selections[ARM], runs)
    results = []
    for seed, step in arms.tuned[ARM].items():
        run = runs[str(step.key)]
        payload = fetch(run)  # reads all of it, to compare its digest
        results.append(
            {
                "seed": seed,
                "key": run.key,
                "folder": str(_copied(payload, out, seed, len(arms.tuned[ARM]))),
                **read_json(payload / "finetune.json"),
                **read_json(payload / MEASUREMENTS),
            }
        )
    evaluations = [
        {"loss": Evaluation.load(fetch(runs[str(s.key)]) / "evaluation.json").value}
        | s.given["names"]
        for s in arms.evaluated
        if s.given["benchmark"].name == "held_out_loss"
    ]
    selection = load(fetch(runs[str(arms.selections[ARM].key)]))
    expected: dict[str, int] = {}
    if not planned.pipeline.base.has_experts:
        forecast = _forecast(planned, runs, arm, results[0]["runtime"]["micro_batch"])
        expected = forecast.parts(selection.train)
    show_finetune(
        profile,
        selection,
        document,
        planned.pipeline.given,
        results,
        evaluations,
        expected,
        as_json=as_json,
    )


def run_forecast(
    given: Given,
    overrides: Sequence[str],
    arm: ArmConfig,
    *,
    ranking: str | None,
    relation: str | None,
    as_json: bool,
) -> None:
    """Show the parameters, memory and time of each share of the layers, without training."""
    found = resolve(ranking) if ranking else None
    profile = with_arm(load_profile(given, overrides), arm, searched=found is None)
    profile = related(profile, found, relation)
    planned = plan_of(profile, until="search+finetune", ranking=found)
    document = found.ranking if found else None
    runs = {str(p.step.key): p.run for p in planned.steps if p.run is not None}
    if document is None:
        document = _cached_ranking(planned)
    forecast = _forecast(planned, runs, arm, RuntimeConfig.from_env().micro_batch)
    (source,) = required_datasets(arm, document.datasets)
    ordered = order(document.scores(source), document.layers)
    show_forecast(
        profile,
        arm,
        source,
        planned.pipeline.given,
        budget_table(forecast, ordered, FRACTIONS),
        forecast,
        as_json=as_json,
    )


def with_arm(profile: Profile, arm: ArmConfig, *, searched: bool) -> Profile:
    """Return the profile with this arm alone, validated again.

    Args:
        arm: replaces the profile's arms.
        searched: whether the scores come from the profile's own search, so that `arm.source` must
            be one of its datasets, and not from a ranking that was made elsewhere.
    """
    tree = profile.model_dump(exclude_unset=True)  # what is left open stays so
    tree["finetune"]["arms"] = [arm.model_dump() | ({} if searched else {"source": None})]
    tree["evaluate"]["against"] = arm.name
    try:
        found = Profile.model_validate(tree)
    except ValidationError as error:
        raise UserError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
    return found.model_copy(update={"finetune": found.finetune.model_copy(update={"arms": (arm,)})})


def related(profile: Profile, found: ResolvedRanking | None, relation: str | None) -> Profile:
    """Return the profile with its model's `relation` to the ranking's base model declared."""
    if relation is None:
        return profile
    if found is None:
        raise UserError("--relation says how the model is related to that of a --ranking: give one")
    if relation not in RELATIONS:
        raise unknown_name("relation", relation, RELATIONS)
    declared = profile.model.related | {found.ranking.base_model: relation}
    return profile.model_copy(
        update={"model": profile.model.model_copy(update={"related": declared})}
    )


def _of_ranking(ranking: Ranking, arm: ArmConfig) -> ArmConfig:
    """Check the arm against the ranking; by default it keeps the ranking's own fraction."""
    required_datasets(arm, ranking.datasets)
    return arm.model_copy(update={"keep": ranking.keep}) if reads_keep(arm) else arm


def _with_machine(profile: Profile, arm: ArmConfig) -> ArmConfig:
    """Add what the arm's limit depends on here: the micro batch, and the measured speed."""
    runtime = RuntimeConfig.from_env()
    if arm.memory is not None:
        return arm.model_copy(update={"micro_batch": runtime.micro_batch})
    if arm.seconds is None:
        return arm
    planned = plan_of(profile, until="search+finetune")
    runs = {str(p.step.key): p.run for p in planned.steps if p.run is not None}
    speed = measured_speed(planned, runs)
    if speed is None:
        raise UserError(
            "time cannot be forecast: no stage 1 of this profile has finished in this cache, so "
            "how fast the model trains here is unknown; run `ila search` first, or give a limit in "
            "memory or params"
        )
    # Two digits, so that the same machine chooses the same layers next time.
    return arm.model_copy(update={"flops_per_second": float(f"{speed:.1e}")})


def measured_speed(planned: ProfilePlan, runs: Mapping[str, StepRun]) -> float | None:
    """Return the speed of the first finished stage 1, in FLOP/s; `None` if there is none."""
    pipeline, search = planned.pipeline, planned.profile.search
    for dataset, of_seed in pipeline.adapters.items():
        for step in of_seed.values():
            run, data = runs.get(str(step.key)), runs.get(str(pipeline.data[dataset].key))
            if run is None or data is None:
                continue
            payload = fetch(run)
            result, spent = read_json(payload / "stage1.json"), read_json(payload / MEASUREMENTS)
            prepared = read_json(fetch(data) / "prepared.json")
            tokens = prepared["tokens"]["train"]["all"] / prepared["rows"]["train"]
            tokens *= result["steps"] * search.stage1.optimizer.batch_size
            layers = pipeline.base.layers
            lora = 6 * lora_parameters(layers, search.stage1.lora.r)
            return float(tokens * (4 * sum(x.weights for x in layers) + lora) / spent["seconds"])
    return None


def _forecast(
    planned: ProfilePlan, runs: Mapping[str, StepRun], arm: ArmConfig, micro_batch: int
) -> Forecast:
    profile, pipeline = planned.profile, planned.pipeline
    settings = profile.finetune.settings_of(arm)
    data = runs.get(str(pipeline.data[profile.finetune.dataset].key))
    forecast = Forecast.of(
        profile.model,
        pipeline.base.layers,
        profile.finetune.method_of(arm),
        settings,
        batch_size=profile.finetune.optimizer.batch_size,
        micro_batch=micro_batch,
        length=longest(fetch(data), "train")
        if data
        else longest_row(profile.data, pipeline.base.lock.positions(profile.model)),
    )
    speed = measured_speed(planned, runs)
    if speed is None or data is None:
        return forecast
    prepared = read_json(fetch(data) / "prepared.json")
    return forecast.timed(tokens_to_train(prepared, profile.finetune, settings), speed)


def _own_ranking(selection: Step, runs: Mapping[str, StepRun]) -> Ranking | None:
    """Return the scores that a selection was made from; `None` if its policy reads none."""
    if not any("/" in name for name in selection.inputs):
        return None
    return gather(selection, {n: fetch(runs[str(s.key)]) for n, s in selection.inputs.items()})


def _cached_ranking(planned: ProfilePlan) -> Ranking:
    key = str(planned.pipeline.ranking.key)
    lookup = open_lookup(RuntimeConfig.from_env(), planned.profile.model.name)
    if not lookup.finished(key):
        raise UserError(
            f"the ranking of profile {planned.profile.name!r} is not in this cache; make it with "
            "`ila search`, or give another with --ranking"
        )
    return resolve(f"key:{key}").ranking


def _copied(payload: Path, out: Path | None, seed: int, n_seeds: int) -> Path:
    """Return the trained weights' folder: in the cache, or a copy in `out`, one per seed."""
    (folder,) = [x for x in payload.iterdir() if x.is_dir()]
    if out is None:
        return folder
    target = out / f"seed-{seed}" if n_seeds > 1 else out
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target
