"""`ila compare --pairwise`: a judge compares two models' answers, in both orders."""

from collections.abc import Sequence

import typer

from flows.actions.compare import at_least_two, one_arm
from flows.actions.evaluation_targets import find_target
from flows.actions.run import finished
from flows.results.profile_plan import plan_of
from flows.views.evaluation import beside
from flows.views.printing import print_json, print_table
from ila_core.compare.arms import bonferroni
from ila_core.compare.preference import Pair, Preferred, preferred
from ila_core.compare.results import Evaluation
from ila_core.errors import UserError
from ila_core.evaluate.benchmarks import BENCHMARKS
from ila_core.evaluate.judged import Judged
from tasks.cache.payloads import fetch
from tasks.steps.evaluate.answers import called

JUDGED = tuple(name for name, benchmark in BENCHMARKS.items() if isinstance(benchmark, Judged))


def run_pairwise(
    given: Sequence[str],
    profile: str | None,
    *,
    benchmarks: Sequence[str],
    limit: int | None,
    overrides: Sequence[str],
    as_json: bool,
) -> None:
    """Let the judge compare every other model with the last; compute missing answers first."""
    target = find_target(given, profile, benchmarks=benchmarks, limit=limit, overrides=overrides)
    evaluate = target.profile.evaluate
    asked = [name for name in evaluate.benchmarks if name in JUDGED]
    strange = [name for name in benchmarks if name not in JUDGED]
    if strange or not asked:
        raise UserError(
            f"--pairwise compares answers, which {', '.join(strange or evaluate.benchmarks)} "
            f"has none of that a judge would read: give --benchmarks {' or '.join(JUDGED)}"
        )
    against = one_arm(given[-1], target.asked[-1])
    at_least_two(target.arms)
    others = [arm for arm in target.arms if arm != against]
    until = "+".join(f"pairwise={arm}:{against}" for arm in others)
    measured = target.measured_by(asked)
    planned = plan_of(measured.profile, until=until)
    runs = finished(planned, until)
    pairs, keys = [], []
    for step in planned.pipeline.targets(until):
        names, run = step.given["names"], runs[str(step.key)]
        result = Evaluation.load(fetch(run) / "evaluation.json")
        other = {"arm": names["against"], "seed": names["against_seed"]}
        pairs.append(Pair(called(names), called(other), result))
        keys.append(run.key)
    _show(preferred(pairs, evaluate.confidence), keys, evaluate.confidence, evaluate.limit, as_json)


def _show(
    found: Sequence[Preferred],
    keys: Sequence[str],
    confidence: float,
    limit: int | None,
    as_json: bool,
) -> None:
    each = bonferroni(confidence, len(found))
    if as_json:
        rows = [x.model_dump() | {"key": key} for x, key in zip(found, keys, strict=True)]
        return print_json(
            {"confidence": confidence, "each": each, "limit": limit, "preferred": rows}
        )
    header = ["benchmark", "a", "b", "wins", "ties", "losses", "share of wins", "low", "high"]
    print_table(
        [*header, "preferred", "beside it", "key"],
        [
            [
                x.benchmark, x.a, x.b, str(x.wins), str(x.ties), str(x.losses),
                f"{x.share:.4f}", f"{x.low:.4f}", f"{x.high:.4f}",
                {"a": x.a, "b": x.b}.get(x.says, x.says), beside(x.counts, x.judged_again),
                f"key:{key}",
            ]
            for x, key in zip(found, keys, strict=True)
        ],
    )  # fmt: skip
    typer.echo(
        "Each turn is judged in both orders, and is won only where both agree. Wins, ties and "
        "losses are of questions; the share counts ties as half."
    )
    typer.echo(
        f"low to high: {each:.2%} intervals over questions, so that all {len(found)} hold at once "
        f"with {confidence:.0%} (Bonferroni)."
    )
    if limit is not None:
        typer.echo(f"Limited to {limit} questions a benchmark: a look, no evaluation.")
