"""The command line. Nothing heavy at module level: `ila --help` must answer at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.evaluate import compare, decide, evaluate
from flows.cli.export import export, verify
from flows.cli.options import (
    DataOption,
    DeclaredRelation,
    Json,
    ModelOption,
    Overrides,
    Policy,
    ProfileOrModel,
    Reason,
    RefreshOption,
    Source,
    profile_of,
)
from flows.cli.rankings import rankings_app
from flows.cli.servers import servers_app

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Find which linear layers of a language model matter for alignment; train only those.",
)
app.add_typer(rankings_app, name="rankings")
app.add_typer(servers_app, name="servers")
app.command()(evaluate)
app.command()(compare)
app.command()(decide)
app.command()(export)
app.command()(verify)

ProfileArgument = Annotated[
    str,
    typer.Argument(metavar="PROFILE", help="A shipped profile's name, or a path to a .yaml file."),
]
Rehash = Annotated[bool, typer.Option("--rehash", help="Read every local file again.")]


@app.command(
    "search", help="Run the search only: the ranking of every dataset and how far they agree."
)
@app.command(
    "run",
    help="Run the whole pipeline: search, fine-tune, evaluate, report. Again, it computes nothing.",
)
def run_or_search(
    context: typer.Context,
    profile: ProfileOrModel = None,
    model: ModelOption = None,
    data: DataOption = None,
    overrides: Overrides = None,
    refresh: RefreshOption = None,
    reason: Reason = None,
    rehash: Rehash = False,
    as_json: Json = False,
) -> None:
    """Compute what is missing, up to the search or up to the report."""
    from flows.actions.run import run_until
    from flows.plan.refresh import Refresh

    given = profile_of(profile, model, data)
    until = "search" if context.command.name == "search" else "report"
    again = Refresh.asked(refresh, reason)
    run_until(until, given, overrides or [], again, rehash=rehash, as_json=as_json)


@app.command()
def plan(
    profile: ProfileOrModel = None,
    model: ModelOption = None,
    data: DataOption = None,
    overrides: Overrides = None,
    until: Annotated[
        str,
        typer.Option(help="report, search, evidence, control, tune, table2, fig1 to fig4, or a+b."),
    ] = "report",
    rehash: Rehash = False,
    resolved: Annotated[
        bool,
        typer.Option("--resolved", help="Print every field of the profile and its source instead."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write what was given to this .yaml file, a profile.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what a run would do, and why: HIT, MISS, RUNNING or UNKNOWN. Nothing runs."""
    from flows.results.profile_plan import plan_profile, rows_of_datasets, save_profile
    from flows.views.profile import show_resolved
    from flows.views.run import show_plan

    given = profile_of(profile, model, data)
    planned = plan_profile(given, overrides or [], rehash=rehash, until=until)
    if save is not None:
        save_profile(given, overrides or [], save)
    if resolved:
        return show_resolved(planned, given, overrides or [], as_json=as_json)
    show_plan(planned, rows_of_datasets(planned), as_json=as_json)


@app.command()
def control(
    profile: ProfileOrModel = None,
    model: ModelOption = None,
    data: DataOption = None,
    overrides: Overrides = None,
    refresh: RefreshOption = None,
    reason: Reason = None,
    min_auc: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Exit with 3 where the mean AUC is lower.")
    ] = 0.95,
    as_json: Json = False,
) -> None:
    """Plant noise in a quarter of the layers: does the search find it? Your model, your data."""
    from flows.actions.control import run_control
    from flows.plan.refresh import Refresh

    given = profile_of(profile, model, data)
    again = Refresh.asked(refresh, reason)
    run_control(given, overrides or [], again, min_auc=min_auc, as_json=as_json)


@app.command()
def reproduce(
    profile: ProfileArgument,
    what: Annotated[
        list[str] | None, typer.Argument(metavar="[table1..table11|fig1..fig4|all]...", help="All.")
    ] = None,
    overrides: Overrides = None,
    refresh: RefreshOption = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Print ours beside the paper's: agreement, milestones, seeds. Figures as SVG and PNG."""
    from flows.actions.reproduce import run_reproduce
    from flows.plan.refresh import Refresh

    again = Refresh.asked(refresh, reason)
    run_reproduce(profile, what or [], overrides or [], again, as_json=as_json)


TrainedBy = Annotated[str | None, typer.Option("--method", help="lora, qlora, adalora or full.")]
RankingReference = Annotated[
    str | None,
    typer.Option(
        "--ranking",
        metavar="REF",
        help="name@alias, name/version, key:<12 hex> or a .json file; else the search.",
    ),
]


@app.command()
def finetune(
    profile: ProfileOrModel = None,
    model: ModelOption = None,
    data: DataOption = None,
    ranking: RankingReference = None,
    relation: DeclaredRelation = None,
    policy: Policy = None,
    source: Source = None,
    keep: Annotated[float | None, typer.Option(help="Fraction of the layers to train.")] = None,
    layers: Annotated[int | None, typer.Option(help="Number of layers to train.")] = None,
    parameters: Annotated[
        int | None, typer.Option("--params", help="Most parameters to train.")
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(metavar="WHAT=N", help="Limit to fit: memory=24GiB, params=20M or time=2h."),
    ] = None,
    method: TrainedBy = None,
    out: Annotated[Path | None, typer.Option(help="Copy what was trained to this folder.")] = None,
    overrides: Overrides = None,
    refresh: RefreshOption = None,
    reason: Reason = None,
    as_json: Json = False,
) -> None:
    """Train with a ranking: yours, a colleague's file, or the profile's own search."""
    from flows.actions.finetune import arm_of, run_finetune
    from flows.plan.refresh import Refresh

    given = profile_of(profile, model, data)
    again = Refresh.asked(refresh, reason)
    limits = {"keep": keep, "layers": layers, "parameters": parameters}
    arm = arm_of(policy=policy, source=source, method=method, limits=limits, fit=fit)
    run_finetune(
        given, overrides or [], arm, ranking=ranking, relation=relation, refresh=again, out=out,
        as_json=as_json,
    )  # fmt: skip


@app.command()
def merge(
    profile: ProfileArgument,
    run: Annotated[str, typer.Argument(metavar="KEY", help="key:<12 hex> of a fine-tuning.")],
    out: Annotated[Path, typer.Option(help="A folder that does not exist yet.")],
    as_json: Json = False,
) -> None:
    """Write a fine-tuned model as one folder for transformers, adapters merged."""
    from flows.actions.merge import run_merge

    run_merge(profile, run, out=out, as_json=as_json)


@app.command()
def forecast(
    profile: ProfileOrModel = None,
    model: ModelOption = None,
    data: DataOption = None,
    ranking: RankingReference = None,
    relation: DeclaredRelation = None,
    source: Source = None,
    method: TrainedBy = None,
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Say what each share of the layers costs: parameters, memory, time. Nothing is trained."""
    from flows.actions.finetune import arm_of, run_forecast

    given = profile_of(profile, model, data)
    arm = arm_of(policy="ila", source=source, method=method, limits={}, fit=None)
    run_forecast(given, overrides or [], arm, ranking=ranking, relation=relation, as_json=as_json)


@app.command()
def tune(
    profile: ProfileOrModel = None,
    model: ModelOption = None,
    data: DataOption = None,
    overrides: Overrides = None,
    jobs: Annotated[
        int, typer.Option(min=1, help="Trials that train at once, each in its own process.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Try the profile's grid of learning rates and lengths; choose on held-out loss."""
    from flows.actions.tune import run_tune

    given = profile_of(profile, model, data)
    run_tune(given, overrides or [], jobs=jobs, as_json=as_json)


@app.command()
def report(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="RUN", help="A profile's name or file (newest run), or key:<12 hex>."
        ),
    ],
    out: Annotated[Path | None, typer.Option("--out", help="Copy the page to this file.")] = None,
    as_json: Json = False,
) -> None:
    """Say where the report of a finished run is."""
    from flows.plan.finished import find_report
    from flows.views.run import show_report

    show_report(find_report(reference), out=out, as_json=as_json)


@app.command()
def gc(
    older_than: Annotated[
        float, typer.Option(min=0.0, metavar="DAYS", help="Keep what ended in the last DAYS.")
    ] = 7.0,
    remove: Annotated[bool, typer.Option("--remove", help="Remove it; else only show it.")] = (
        False
    ),
    as_json: Json = False,
) -> None:
    """Show what the store keeps that nothing can use again, and the bytes it holds."""
    from flows.actions.gc import run_gc

    run_gc(older_than_days=older_than, really=remove, as_json=as_json)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what is installed, reachable and usable, and what to do about the rest."""
    from flows.doctor.programs import examine
    from flows.views.run import show_checks

    show_checks(examine(), as_json=as_json)


@app.command()
def ui(
    prefect_port: Annotated[int, typer.Option(help="Port of the Prefect UI.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="Port of the MLflow UI.")] = 5000,
) -> None:
    """Serve both web UIs over the embedded stores until interrupted."""
    from flows.servers.ui import serve

    serve(prefect_port=prefect_port, mlflow_port=mlflow_port)


def main() -> None:
    """Run `ila`; an expected error prints one message and gives an exit code, no traceback."""
    try:
        app()
    except Exception as error:
        from flows.exit_codes import explain

        explained = explain(error)
        if explained is None:
            raise
        code, message = explained
        typer.echo(f"ila: {message}", err=True)
        sys.exit(code)


if __name__ == "__main__":
    main()
