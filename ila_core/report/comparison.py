"""Comparison of fine-tuned arms on held-out loss, conversation by conversation.

All arms are evaluated on the same conversations, so a difference of two arms has a far narrower
interval than either loss: the bootstrap is paired. Each conversation's loss is averaged over an
arm's seeds first, so the interval excludes the variance over seeds, which the report shows too.

Arms are compared at the end of the schedule and at each arm's own best step. The best step is
selected on the same rows that give the loss, which biases every arm's best loss downwards.
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


Payload = dict[str, Any]
"""The JSON result of a step, as that step wrote it."""


class Difference(Frozen):
    """The held-out loss of an arm minus another's, in nats per token; below 0 is better."""

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
    """The difference to a random arm with as many parameters or layers, at the last step."""

    match: Literal["parameters", "layers"]
    at_best: Difference
    """The difference when each arm is at its own best step."""


class ArmResult(Frozen):
    arm: str
    policy: str
    losses: dict[str, float]
    """Mean held-out loss per token, in nats, of each fine-tuning seed; the base's key is `-`."""
    steps: int | None
    """Optimizer steps of the schedule; `None` for the base."""
    best_step: int | None
    """The step with the lowest loss, among the steps of `finetune.watch` and the last."""
    best_loss: float
    past_best: Difference | None
    """The last step minus the best step; `None` when they are the same."""
    versus: Difference | None
    """The difference to the arm `evaluate.against`; `None` for that arm itself."""
    versus_at_best: Difference | None
    """The difference when each arm is at its own best step."""
    controls: tuple[Control, ...]
    """The differences to the random arms that are `like` this one."""
    trainable_parameters: int | None
    seconds: float | None
    """Training time, mean over seeds."""
    peak_memory_bytes: int | None
    """Largest peak over seeds; `None` when it was not measured."""

    @property
    def loss(self) -> float:
        return fmean(self.losses.values())

    @property
    def overfits(self) -> bool:
        """Whether the last step is worse than the best one, and the interval excludes 0."""
        return self.past_best is not None and self.past_best.verdict == "worse"


class _Moment(NamedTuple):
    """An arm's losses at one step, averaged over its seeds."""

    arm: str
    step: int | None
    loss: float
    nll: Floats
    """Negative log-likelihood of each conversation, in nats, shape (conversations,)."""
    tokens: Floats


def compare_arms(
    evaluations: Sequence[Payload],
    finetunes: Sequence[Payload],
    *,
    finetune: FinetuneConfig,
    evaluate: EvaluateConfig,
) -> tuple[ArmResult, ...]:
    """Compare all arms in the profile's order, then the base if it was evaluated.

    Raises:
        CheckError: when two arms or seeds were evaluated on different conversations.
    """
    of_arm: dict[str, list[Payload]] = {}
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


def _as_watched(evaluation: Payload) -> Payload:
    """Convert an evaluation to the format of losses measured during training (`watched`)."""
    fields = {name: evaluation[name] for name in Evaluation.model_fields if name in evaluation}
    found = Evaluation.model_validate(fields)
    return {
        "arm": evaluation["arm"],
        "seed": evaluation["seed"],
        "loss": found.value,
        "conversations": [{"nll": x.value, "tokens": int(x.weight)} for x in found.items],
    }


def _limited(finetune: Payload, limit: int | None) -> Payload:
    """Limit the losses measured during training to the first `limit` conversations."""
    watched = []
    for found in finetune["watched"]:
        taken = found["conversations"][:limit]
        if len(taken) < len(found["conversations"]):
            loss = sum(c["nll"] for c in taken) / sum(c["tokens"] for c in taken)
            found = {**found, "loss": loss, "conversations": taken}
        watched.append(found)
    return {**finetune, "watched": watched}


def _moments(evaluations: Sequence[Payload], trained: Sequence[Payload]) -> list[_Moment]:
    """Return one arm's held-out losses in the order of their steps, the last step at the end."""
    arm = evaluations[0]["arm"]
    watched: dict[int, list[Payload]] = {}
    for result in trained:
        for found in result["watched"]:
            watched.setdefault(found["step"], []).append(found)
    # One schedule on one dataset: every seed was watched at the same steps.
    assert all(len(found) == len(trained) for found in watched.values())
    by_step: list[tuple[int | None, Sequence[Payload]]] = [*sorted(watched.items())]
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


def _mean_over_seeds(arm: str, evaluations: Sequence[Payload]) -> tuple[Floats, Floats]:
    """Return loss and number of tokens per conversation, the loss averaged over seeds."""
    tokens = [[c["tokens"] for c in e["conversations"]] for e in evaluations]
    if any(t != tokens[0] for t in tokens):
        raise CheckError(
            f"the seeds of {arm!r} were evaluated on different held-out "
            "conversations: evaluate them on the same prepared data"
        )
    nll = np.array([[c["nll"] for c in e["conversations"]] for e in evaluations], dtype=np.float64)
    return nll.mean(axis=0), np.array(tokens[0], dtype=np.float64)
