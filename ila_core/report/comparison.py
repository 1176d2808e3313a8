"""Fine-tuned arms compared on held-out loss, conversation by conversation.

Two arms answer the same conversations, so their difference is far surer than either loss: the
interval resamples conversations and keeps each with its pair. The seeds of an arm are averaged per
conversation first and their spread is shown beside it: the interval does not contain it.

Arms are compared at two moments: at the end of the schedule, and each at its own best step. That
step is chosen on the rows that the loss is then taken on: an optimistic number, for every arm
alike.
"""

from collections.abc import Sequence
from statistics import fmean
from typing import Any, Literal, NamedTuple

import numpy as np

from ila_core.compare.bootstrap import Floats, paired_bootstrap
from ila_core.compare.results import Evaluation
from ila_core.config import BASE, EvaluateConfig, FinetuneConfig, Frozen
from ila_core.errors import CheckError

Verdict = Literal["better", "worse", "no difference seen"]


class Difference(Frozen):
    """Held-out loss of an arm minus that of another, in nats per token; below 0 is better."""

    against: str
    difference: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        if self.high < 0:
            return "better"
        return "worse" if self.low > 0 else "no difference seen"


class Control(Difference):
    """An arm minus a random one at the end of the schedule, and what the two have in common."""

    match: Literal["parameters", "layers"]
    at_best: Difference
    """The difference with each of the two at its own best step."""


class ArmResult(Frozen):
    arm: str
    policy: str
    losses: dict[str, float]
    """Token mean of the held-out loss by fine-tuning seed; the base has the one column `-`."""
    steps: int | None
    """Steps of the schedule; the base has none."""
    best_step: int | None
    """The step of lowest loss among `finetune.watch` and the end."""
    best_loss: float
    past_best: Difference | None
    """The end minus the best step; `None` where the best step is the end."""
    versus: Difference | None
    """Beside `evaluate.against`; `None` for that arm itself."""
    versus_at_best: Difference | None
    """The difference with each of the two at its own best step."""
    controls: tuple[Control, ...]
    """Beside each random arm that is `like` it."""
    trainable_parameters: int | None
    seconds: float | None
    """Mean over seeds."""
    peak_memory_bytes: int | None
    """Largest over seeds; `None` where it was not measured."""

    @property
    def loss(self) -> float:
        return fmean(self.losses.values())

    @property
    def overfits(self) -> bool:
        """Whether it ends worse than it was, by more than the conversations' noise."""
        return self.past_best is not None and self.past_best.verdict == "worse"


class _Moment(NamedTuple):
    """An arm at one step, averaged over its seeds."""

    arm: str
    step: int | None
    loss: float
    nll: Floats
    """Summed over the tokens of each conversation."""
    tokens: Floats


def compare_arms(
    evaluations: Sequence[dict[str, Any]],
    finetunes: Sequence[dict[str, Any]],
    *,
    finetune: FinetuneConfig,
    evaluate: EvaluateConfig,
) -> tuple[ArmResult, ...]:
    """Every arm of the profile in its order, then the base where it was evaluated."""
    of_arm: dict[str, list[dict[str, Any]]] = {}
    for evaluation in evaluations:
        if evaluation["benchmark"] == "held_out_loss":
            of_arm.setdefault(evaluation["arm"], []).append(_as_watched(evaluation))

    policies = {arm.name: arm.policy for arm in finetune.arms}
    if BASE in of_arm:
        policies[BASE] = BASE
    limited = [_limited(f, evaluate.limit) for f in finetunes]
    trained = {name: [f for f in limited if f["arm"] == name] for name in policies}
    moments = {name: _moments(of_arm[name], trained[name]) for name in policies}
    end = {name: found[-1] for name, found in moments.items()}
    best = {name: min(found, key=lambda m: m.loss) for name, found in moments.items()}

    def minus(a: _Moment, b: _Moment) -> Difference:
        return _difference(a, b, evaluate)

    results = []
    for name, policy in policies.items():
        memory = [m for f in trained[name] if (m := f["peak_memory_bytes"]) is not None]
        of, found = evaluate.against, trained[name]
        controls = [
            Control(
                **minus(end[name], end[arm.name]).model_dump(),
                match=arm.match,
                at_best=minus(best[name], best[arm.name]),
            )
            for arm in finetune.arms
            if arm.policy == "freeze_random" and arm.like == name
        ]
        results.append(
            ArmResult(
                arm=name,
                policy=policy,
                losses={
                    str("-" if e["seed"] is None else e["seed"]): e["loss"] for e in of_arm[name]
                },
                steps=end[name].step,
                best_step=best[name].step,
                best_loss=best[name].loss,
                past_best=None if best[name] is end[name] else minus(end[name], best[name]),
                versus=None if name == of else minus(end[name], end[of]),
                versus_at_best=None if name == of else minus(best[name], best[of]),
                controls=tuple(controls),
                trainable_parameters=found[0]["trainable_parameters"] if found else None,
                seconds=fmean(f["seconds"] for f in found) if found else None,
                peak_memory_bytes=max(memory, default=None),
            )
        )
    return tuple(results)


def _as_watched(evaluation: dict[str, Any]) -> dict[str, Any]:
    """An evaluation in the words of a loss taken on the way (`ila_core.train.held_out_watch`)."""
    fields = {name: evaluation[name] for name in Evaluation.model_fields if name in evaluation}
    found = Evaluation.model_validate(fields)
    return {
        "arm": evaluation["arm"],
        "seed": evaluation["seed"],
        "loss": found.value,
        "conversations": [{"nll": x.value, "tokens": int(x.weight)} for x in found.items],
    }


def _limited(finetune: dict[str, Any], limit: int | None) -> dict[str, Any]:
    """Cut the losses taken on the way to the conversations of a limited evaluation, the first."""
    watched = []
    for found in finetune["watched"]:
        taken = found["conversations"][:limit]
        if len(taken) < len(found["conversations"]):
            loss = sum(c["nll"] for c in taken) / sum(c["tokens"] for c in taken)
            found = {**found, "loss": loss, "conversations": taken}
        watched.append(found)
    return {**finetune, "watched": watched}


def _moments(
    evaluations: Sequence[dict[str, Any]], trained: Sequence[dict[str, Any]]
) -> list[_Moment]:
    """Every held-out loss of one arm in the order of its steps; the end of the schedule is last."""
    arm = evaluations[0]["arm"]
    watched: dict[int, list[dict[str, Any]]] = {}
    for result in trained:
        for found in result["watched"]:
            watched.setdefault(found["step"], []).append(found)
    # One schedule on one dataset: every seed was watched at the same steps.
    assert all(len(found) == len(trained) for found in watched.values())
    by_step: list[tuple[int | None, Sequence[dict[str, Any]]]] = [*sorted(watched.items())]
    by_step.append((trained[0]["steps"] if trained else None, evaluations))
    return [
        _Moment(arm, step, fmean(f["loss"] for f in found), *_mean_over_seeds(arm, found))
        for step, found in by_step
    ]


def _difference(a: _Moment, b: _Moment, evaluate: EvaluateConfig) -> Difference:
    if a.tokens.tolist() != b.tokens.tolist():
        raise CheckError(
            f"{a.arm!r} and {b.arm!r} were evaluated on different held-out conversations "
            f"({len(a.tokens)} and {len(b.tokens)}): evaluate both on the same prepared data"
        )
    difference, low, high = paired_bootstrap(
        a.nll,
        b.nll,
        a.tokens,
        resamples=evaluate.resamples,
        confidence=evaluate.confidence,
        seed=evaluate.seed,
    )
    return Difference(against=b.arm, difference=difference, low=low, high=high)


def _mean_over_seeds(arm: str, evaluations: Sequence[dict[str, Any]]) -> tuple[Floats, Floats]:
    """Loss per conversation averaged over seeds, and tokens per conversation."""
    tokens = [[c["tokens"] for c in e["conversations"]] for e in evaluations]
    if any(t != tokens[0] for t in tokens):
        raise CheckError(
            f"the seeds of {arm!r} were evaluated on different held-out "
            "conversations: evaluate them on the same prepared data"
        )
    nll = np.array([[c["nll"] for c in e["conversations"]] for e in evaluations], dtype=np.float64)
    return nll.mean(axis=0), np.array(tokens[0], dtype=np.float64)
