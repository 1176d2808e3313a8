"""Select the layers that an arm trains; the key covers only the scores that its policy reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ila_core.config import (
    ArmConfig,
    FinetuneConfig,
    FullMethod,
    MethodSettings,
    SearchConfig,
)
from ila_core.data.batches import planned_steps
from ila_core.data.prepared import longest
from ila_core.models.layers import fingerprint
from ila_core.search.ranking import digest_read
from ila_core.search.ranking_reference import ResolvedRanking
from ila_core.selection.policies import POLICIES
from ila_core.selection.select import plainest, reads_keep, required_datasets
from ila_core.selection.select import select as apply_policy
from ila_core.selection.selection import Selection
from ila_core.train.forecast import VERSION as FORECAST_VERSION
from ila_core.train.forecast import Forecast, refuse_forecast
from tasks.cache.payloads import read_json, write_json
from tasks.cache.step import Context, Step
from tasks.steps.base import Base
from tasks.steps.search.ranking import Scores, gather, score_inputs

VERSION = 2


def select(
    base: Base,
    arm: ArmConfig,
    scores: Scores | ResolvedRanking,
    earlier: Mapping[str, Step],
    search: SearchConfig,
    finetuning: FinetuneConfig,
    data: Step,
) -> Step:
    """Describe the selection of one arm.

    Args:
        scores: steps of this profile's search, or a ranking made elsewhere for the same layers.
        earlier: selection steps of the arms before it, by name.
        data: the arm's training data; an input only for a limit in memory or time.
    """
    searched = list(scores.ranking.datasets if isinstance(scores, ResolvedRanking) else scores)
    required_datasets(arm, searched)
    arm = plainest(arm, searched, search)
    given: dict[str, object] = {}
    identity: dict[str, object] = {}
    if isinstance(scores, ResolvedRanking):
        ranking = scores.ranking
        inputs = {}
        identity["ranking"] = digest_read(ranking, required_datasets(arm, searched))
        if scores.relation is not None:
            identity["relation"] = scores.relation
        given["ranking"] = ranking
        given["names"] = {
            "ranking": scores.pinned,
            "ranking_digest": scores.digest,
            "relation": scores.relation or "the same weights",
        }
    else:
        inputs = score_inputs(scores, list(required_datasets(arm, searched)))
    if arm.like is not None:
        inputs["like"] = earlier[arm.like]
    method, name = finetuning.settings_of(arm), finetuning.method_of(arm)
    fields = [*POLICIES[arm.policy].settings, *(["keep"] if reads_keep(arm) else [])]
    if arm.memory is not None or arm.seconds is not None:
        refuse_forecast(base.has_experts, base.config.name)
        identity["forecast"] = {
            "version": FORECAST_VERSION,
            "method": name,
            "settings": method.model_dump(),
            "dtype": base.config.dtype,
            "batch_size": finetuning.optimizer.batch_size,
        }
        inputs["data"] = data
    return Step(
        "selection",
        label=f"selection {arm.name}",
        version=VERSION,
        identity=base.identify(
            "lm_head",
            layer_shapes=fingerprint(base.layers),
            arm=arm.model_dump(exclude={"name", "like", "method"}),
            settings={field: getattr(search, field) for field in fields},
            counted_by=_counted_by(method),
            **identity,
        ),
        inputs=inputs,
        given={
            "base": base,
            "arm": arm,
            "search": search,
            "method": method,
            "finetuning": finetuning,
            **given,
        },
    )


def _counted_by(method: MethodSettings) -> dict[str, int] | str:
    """Return what decides a layer's trainable parameters besides its shape."""
    if isinstance(method, FullMethod):
        return "weights"
    return method.model_dump(include={"r", "initial_r"})


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    given = step.given
    arm: ArmConfig = given["arm"]
    if "ranking" in given:
        context.measurements["ranking"] = given["names"]
    selection = apply_policy(
        arm,
        given["ranking"] if "ranking" in given else gather(step, inputs),
        given["search"],
        given["method"],
        load(inputs["like"]) if "like" in inputs else None,
        _forecast(step, inputs),
    )
    write_json(out / "selection.json", selection.model_dump(mode="json"))


def _forecast(step: Step, inputs: dict[str, Path]) -> Forecast | None:
    given = step.given
    arm, base, finetuning = given["arm"], given["base"], given["finetuning"]
    if arm.memory is None and arm.seconds is None:
        return None
    forecast = Forecast.of(
        base.config,
        base.layers,
        finetuning.method_of(arm),
        given["method"],
        batch_size=finetuning.optimizer.batch_size,
        micro_batch=arm.micro_batch,
        length=longest(inputs["data"], "train"),
    )
    if arm.seconds is None:
        return forecast
    tokens = tokens_to_train(
        read_json(inputs["data"] / "prepared.json"), finetuning, given["method"]
    )
    return forecast.timed(tokens, arm.flops_per_second)


def tokens_to_train(
    prepared: Mapping[str, Any], finetuning: FinetuneConfig, method: MethodSettings
) -> int:
    """Estimate the number of tokens of a training, without padding (packing adds little)."""
    rows: int = prepared["rows"]["train"]
    tokens: int = prepared["tokens"]["train"]["all"]
    batch = finetuning.optimizer.batch_size
    steps = planned_steps(method, rows, batch)
    return round(steps * batch * tokens / rows)


def load(payload: Path) -> Selection:
    """Read the selection of a finished step."""
    return Selection.model_validate_json((payload / "selection.json").read_bytes())
