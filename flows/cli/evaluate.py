"""`ila evaluate`, `ila compare` and `ila decide` as commands: their arguments and options."""

from typing import Annotated

import typer

from flows.cli.options import Json, Overrides, Reason, RefreshOption

OfProfile = Annotated[
    str | None, typer.Option("--profile", help="Profile with the settings and base model.")
]
Benchmarks = Annotated[
    str | None,
    typer.Option(help="Names joined by commas, in place of the profile's: mmlu,hellaswag ..."),
]
Limit = Annotated[
    int | None, typer.Option(min=1, help="Questions per task: a look, kept apart from the whole.")
]


def evaluate(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN|ADAPTER|BASE|ANSWERS...",
            help="A profile, PROFILE/ARM, key:<12 hex>, an adapter's folder, a base model of a "
            "profile, or another model's answers.jsonl (FastChat's).",
        ),
    ],
    profile: OfProfile = None,
    benchmarks: Benchmarks = None,
    limit: Limit = None,
    overrides: Overrides = None,
    refresh: RefreshOption = None,
    reason: Reason = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Models evaluated at once, each in its own process.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Measure a run's arms, an adapter or the base; what is cached is not computed again."""
    from flows.actions.evaluate import run_evaluate
    from flows.plan.refresh import Refresh

    run_evaluate(
        targets, profile, benchmarks=named(benchmarks), limit=limit, overrides=overrides or [],
        refresh=Refresh.asked(refresh, reason), jobs=jobs, as_json=as_json,
    )  # fmt: skip


Models = Annotated[
    list[str],
    typer.Argument(metavar="A B...", help="As for `ila evaluate`; the last is the baseline."),
]


def compare(
    models: Models,
    profile: OfProfile = None,
    benchmarks: Benchmarks = None,
    pairwise: Annotated[
        bool,
        typer.Option("--pairwise", help="Show a judge both answers, in both orders: who wins?"),
    ] = False,
    limit: Limit = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Compare evaluated models item by item, with intervals; only --pairwise computes anything."""
    if pairwise:
        from flows.actions.pairwise import run_pairwise as run
    else:
        from flows.actions.compare import run_compare as run

    run(
        models, profile, benchmarks=named(benchmarks), limit=limit, overrides=overrides or [],
        as_json=as_json,
    )  # fmt: skip


def decide(
    candidate: Annotated[str, typer.Argument(help="As for `ila evaluate`.")],
    against: Annotated[str, typer.Option(help="The model that it would replace.")],
    rule: Annotated[
        str, typer.Option(help="A rule's name or .yaml file: what must hold (docs/EVALUATION.md).")
    ] = "default",
    profile: OfProfile = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Say ship (exit 0), no (3) or undecided (4), why, and what would decide it."""
    from flows.actions.compare import run_decide

    run_decide(candidate, against, rule, profile, overrides=overrides or [], as_json=as_json)


def named(benchmarks: str | None) -> list[str]:
    """Split the names in an option, in order."""
    return [name.strip() for name in (benchmarks or "").split(",") if name.strip()]
