"""Fine-tuned arms compared on held-out loss, conversation by conversation.

Two arms answer the same conversations, so their difference is far surer than either loss: the
interval resamples conversations and keeps each with its pair. The seeds of an arm are averaged per
conversation first and their spread is shown beside it: the interval does not contain it.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from ila_core.config import BASE, EvaluateConfig, FinetuneConfig, Frozen
from ila_core.errors import CheckError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

_CHUNK = 2**22  # indices drawn at a time, so that memory does not grow with the resamples

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


class ArmResult(Frozen):
    arm: str
    policy: str
    losses: dict[str, float]
    """Token mean of the held-out loss by fine-tuning seed; the base has the one column `-`."""
    versus: Difference | None
    """Beside `evaluate.against`; `None` for that arm itself."""
    controls: tuple[Difference, ...]
    """Beside each random arm of equal parameters."""
    trainable_parameters: int | None
    seconds: float | None
    """Mean over seeds."""
    peak_memory_bytes: int | None
    """Largest over seeds; `None` where it was not measured."""

    @property
    def loss(self) -> float:
        return fmean(self.losses.values())


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
            of_arm.setdefault(evaluation["arm"], []).append(evaluation)

    def minus(arm: str, other: str) -> Difference:
        a, tokens_a = _mean_over_seeds(of_arm[arm])
        b, tokens_b = _mean_over_seeds(of_arm[other])
        if tokens_a.tolist() != tokens_b.tolist():
            raise CheckError(
                f"{arm!r} and {other!r} were evaluated on different held-out conversations "
                f"({len(tokens_a)} and {len(tokens_b)}): evaluate both on the same prepared data"
            )
        difference, low, high = paired_bootstrap(
            a,
            b,
            tokens_a,
            resamples=evaluate.resamples,
            confidence=evaluate.confidence,
            seed=evaluate.seed,
        )
        return Difference(against=other, difference=difference, low=low, high=high)

    policies = {arm.name: arm.policy for arm in finetune.arms}
    if BASE in of_arm:
        policies[BASE] = BASE
    results = []
    for name, policy in policies.items():
        trained = [f for f in finetunes if f["arm"] == name]
        memory = [f["peak_memory_bytes"] for f in trained if f["peak_memory_bytes"] is not None]
        controls = [a.name for a in finetune.arms if a.policy == "freeze_random" and a.like == name]
        results.append(
            ArmResult(
                arm=name,
                policy=policy,
                losses={
                    str("-" if e["seed"] is None else e["seed"]): e["loss"] for e in of_arm[name]
                },
                versus=None if name == evaluate.against else minus(name, evaluate.against),
                controls=tuple(minus(name, control) for control in controls),
                trainable_parameters=trained[0]["trainable_parameters"] if trained else None,
                seconds=fmean(f["seconds"] for f in trained) if trained else None,
                peak_memory_bytes=max(memory, default=None),
            )
        )
    return tuple(results)


def paired_bootstrap(
    nll_a: Floats,
    nll_b: Floats,
    tokens: Floats,
    *,
    resamples: int,
    confidence: float,
    seed: int,
) -> tuple[float, float, float]:
    """Token-weighted mean of a - b, and its percentile interval over resampled conversations.

    Args:
        nll_a: summed loss over the tokens of each conversation.
        nll_b: the same conversations in the same order under the other arm.
        tokens: tokens of each conversation that are in the loss.
    """
    import numpy as np

    n = len(tokens)
    gap = nll_a - nll_b
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, resamples, rows := max(1, _CHUNK // n)):
        drawn = rng.integers(n, size=(min(rows, resamples - start), n))
        means.append(gap[drawn].sum(axis=1) / tokens[drawn].sum(axis=1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), (tail, 1 - tail))
    return float(gap.sum() / tokens.sum()), float(low), float(high)


def _mean_over_seeds(evaluations: Sequence[dict[str, Any]]) -> tuple[Floats, Floats]:
    """Loss per conversation averaged over seeds, and tokens per conversation."""
    import numpy as np

    tokens = [[c["tokens"] for c in e["conversations"]] for e in evaluations]
    if any(t != tokens[0] for t in tokens):
        raise CheckError(
            f"the seeds of {evaluations[0]['arm']!r} were evaluated on different held-out "
            "conversations: evaluate them on the same prepared data"
        )
    nll = np.array([[c["nll"] for c in e["conversations"]] for e in evaluations], dtype=np.float64)
    return nll.mean(axis=0), np.array(tokens[0], dtype=np.float64)
