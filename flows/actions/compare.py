"""`ila compare` and `ila decide`: compare cached evaluations item by item."""

import sys
from collections.abc import Sequence

from flows.actions.evaluate import measured
from flows.actions.evaluation_targets import Target, find_target
from flows.results.profile_plan import plan_of
from ila_core.compare.results import Evaluation
from ila_core.compare.rule import load_rule
from ila_core.config import RuntimeConfig
from ila_core.errors import UserError
from ila_core.evaluate.benchmarks import BENCHMARKS
from ila_core.resolve import Lock, Unknown


def run_compare(
    given: Sequence[str],
    profile: str | None,
    *,
    benchmarks: Sequence[str],
    limit: int | None,
    overrides: Sequence[str],
    as_json: bool,
) -> None:
    """Compare every other model with the last one, on all benchmarks that were evaluated."""
    from flows.views.decision import show_comparison
    from ila_core.compare.arms import compare

    target, arms = _evaluated(given, profile, benchmarks, limit, overrides)
    against = one_arm(given[-1], target.asked[-1])
    evaluate = target.profile.evaluate
    at_least_two(list(arms))
    comparison = compare(
        arms,
        against=against,
        confidence=evaluate.confidence,
        resamples=evaluate.resamples,
        seed=evaluate.seed,
    )
    show_comparison(comparison, as_json=as_json)


def run_decide(
    candidate: str,
    against: str,
    rule: str,
    profile: str | None,
    *,
    overrides: Sequence[str],
    as_json: bool,
) -> None:
    """Decide whether the candidate may replace the baseline; exit with 0, 3 or 4."""
    from flows.views.decision import EXIT_CODES, show_decision
    from ila_core.compare.decide import decide

    required = load_rule(rule, BENCHMARKS)
    benchmarks = [requirement.benchmark for requirement in required.require]
    given = [candidate, against]
    target, arms = _evaluated(given, profile, benchmarks, None, overrides)
    if target.profile.evaluate.limit is not None:
        raise UserError(
            "evaluate.limit is set, and a look decides nothing: evaluate in full, then decide"
        )
    first, second = (one_arm(g, asked) for g, asked in zip(given, target.asked, strict=True))
    if first == second:
        raise UserError(f"{candidate} is {against}: there is nothing to decide")
    decision = decide(
        (f"{target.name}/{first}", arms[first]), (f"{target.name}/{second}", arms[second]), required
    )
    show_decision(decision, as_json=as_json)
    sys.exit(EXIT_CODES[decision.answer])


def at_least_two(arms: Sequence[str]) -> None:
    """Check that there are two models to compare.

    Raises:
        UserError: when there are fewer than two.
    """
    if len(set(arms)) < 2:
        raise UserError(
            "give two models or more, the last of which is compared with; given is "
            + ", ".join(arms)
        )


def one_arm(given: str, arms: Sequence[str]) -> str:
    """Return the only arm of an argument.

    Raises:
        UserError: when the argument names several arms.
    """
    if len(arms) > 1:
        raise UserError(
            f"{given} stands for {', '.join(arms)}: name one of them, {given}/{arms[-1]}"
        )
    return arms[0]


def _evaluated(
    given: Sequence[str],
    profile: str | None,
    benchmarks: Sequence[str],
    limit: int | None,
    overrides: Sequence[str],
) -> tuple[Target, dict[str, dict[str, list[Evaluation]]]]:
    """Return the cached evaluations, one per seed, by arm and benchmark; compute nothing."""
    target = find_target(given, profile, benchmarks=benchmarks, limit=limit, overrides=overrides)
    if not benchmarks:
        lock = Lock(RuntimeConfig.from_env().home, online=False)
        target = target.measured_by([n for n in BENCHMARKS if _is_described(n, target, lock)])
    planned = plan_of(target.profile, until=target.until, online=False)
    runs = {str(p.step.key): p.run for p in planned.steps if p.run is not None}
    arms: dict[str, dict[str, list[Evaluation]]] = {arm: {} for arm in target.arms}
    for found in measured(planned, target, runs):
        arms[found.arm].setdefault(found.result.benchmark, []).append(found.result)
    return target, arms


def _is_described(benchmark: str, target: Target, lock: Lock) -> bool:
    """Return whether the key of a benchmark's result is known from the profile and this machine.

    Without a key there cannot be a result with these settings in the cache.
    """
    try:
        found = BENCHMARKS[benchmark].identity(target.profile.evaluate, lock)
    except UserError:
        return False
    return not isinstance(found, Unknown)
