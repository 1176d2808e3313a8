"""The output of `ila tune`: every trial, the choice, and the `--set` that applies it."""

from collections.abc import Mapping, Sequence

import typer

from flows.views.printing import print_frame, print_json
from ila_core.config import Profile, TuneConfig
from ila_core.selection.tune import TrialResult, doubts, length, overrides, trials_table


def show_tune(
    profile: Profile,
    tune: TuneConfig,
    results: Sequence[TrialResult],
    chosen: Mapping[str, TrialResult],
    *,
    computed: int,
    seconds: float,
    as_json: bool,
) -> None:
    """Print all trials sorted by loss, and the choice of each arm."""
    finetuning = profile.finetune
    arms = {arm.name: arm for arm in finetuning.arms}
    sets = {arm: overrides(best, finetuning.settings_of(arms[arm])) for arm, best in chosen.items()}
    said = {arm: doubts(best, results, tune.grids[best.method]) for arm, best in chosen.items()}
    if as_json:
        return print_json(
            {
                "profile": profile.name,
                "dataset": finetuning.dataset,
                "trials": [_plain(result) for result in results],
                "chosen": {
                    arm: _plain(best) | {"set": sets[arm], "doubts": said[arm]}
                    for arm, best in chosen.items()
                },
                "computed": computed,
                "cached": len(results) - computed,
                "seconds": round(seconds, 2),
            }
        )
    print_frame(trials_table(results, chosen))
    done = f"{computed} trials computed, {len(results) - computed} cached ({seconds:.0f} s)"
    typer.echo(done if computed else f"all {len(results)} trials cached ({seconds:.1f} s)")
    typer.echo(
        f"Chosen on the held-out conversations of {finetuning.dataset}, at the end of the "
        "schedule: the lowest of so many losses is an optimistic number."
    )
    for arm, best in chosen.items():
        typer.echo(f"{arm}: {best.method} lr {best.lr:g}, {length(best)}")
        for doubt in said[arm]:
            typer.echo(f"  {doubt}")
        typer.echo("  apply it, to all arms of that method, with")
        typer.echo("  " + " ".join(f"--set {line}" for line in sets[arm]))


def _plain(result: TrialResult) -> dict[str, object]:
    more = {"loss": result.loss, "spread": result.spread, "diverged": result.diverged}
    return result.model_dump() | more
