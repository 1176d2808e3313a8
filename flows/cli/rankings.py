"""The commands of `ila rankings`, for rankings by name, key or file."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import Json, Reference

rankings_app = typer.Typer(
    no_args_is_help=True,
    help="Rankings by name: list, show, compare, publish, pull, adopt, retire, lineage.",
)

Keep = Annotated[
    float | None,
    typer.Option(
        "--keep", min=0.0, max=1.0, help="Fraction of layers kept; by default the ranking's own."
    ),
]


@rankings_app.command("list")
def list_all(as_json: Json = False) -> None:
    """List the published rankings, and those in the cache, newest first."""
    from flows.actions.publish import cached_rankings, published_rankings
    from flows.views.rankings import show_rankings

    show_rankings(cached_rankings(), published_rankings(), as_json=as_json)


@rankings_app.command()
def show(reference: Reference, keep: Keep = None, as_json: Json = False) -> None:
    """Show a ranking's card, and every layer's score and place; --json prints the document."""
    from flows.actions.publish import card_of
    from flows.plan.references import resolve
    from flows.views.rankings import show_ranking

    found = resolve(reference)
    show_ranking(found, card_of, keep=keep, as_json=as_json)


@rankings_app.command()
def compare(
    reference: Reference, other: Reference, keep: Keep = None, as_json: Json = False
) -> None:
    """Compare two rankings of one architecture, dataset by dataset, beside chance."""
    from flows.plan.references import resolve
    from flows.views.rankings import show_comparison

    ranking, beside = resolve(reference).ranking, resolve(other).ranking
    show_comparison(ranking, beside, keep=keep, as_json=as_json)


@rankings_app.command()
def publish(
    reference: Reference,
    name: Annotated[str, typer.Option(help="Name to publish it under: mistral-7b.")],
    alias: Annotated[
        str | None, typer.Option(help="Alias to move to this version: champion.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Publish a cached ranking as a version of a name; the same one again is the same version."""
    from flows.actions.publish import run_publish
    from flows.views.rankings import show_publication

    show_publication(run_publish(reference, name, alias), as_json=as_json)


@rankings_app.command()
def adopt(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A ranking.json made elsewhere.")],
    as_json: Json = False,
) -> None:
    """Take a ranking that was made elsewhere into the cache, so that it can be published."""
    from flows.actions.publish import run_adopt
    from flows.views.rankings import show_adoption

    show_adoption(*run_adopt(file), as_json=as_json)


@rankings_app.command()
def pull(
    reference: Reference,
    out: Annotated[Path, typer.Option(help="A new file ending in .json; the card lies beside it.")],
    as_json: Json = False,
) -> None:
    """Write a ranking to a file, and its card beside it."""
    from flows.actions.publish import run_pull
    from flows.views.rankings import show_pull

    show_pull(*run_pull(reference, out), as_json=as_json)


@rankings_app.command()
def lineage(reference: Reference, as_json: Json = False) -> None:
    """Say which search made a ranking, what was trained with it, and what a retirement affects."""
    from flows.actions.publish import trace
    from flows.plan.references import resolve
    from flows.views.rankings import show_trace

    show_trace(trace(resolve(reference)), as_json=as_json)


@rankings_app.command()
def retire(
    reference: Annotated[str, typer.Argument(metavar="NAME/VERSION")],
    reason: Annotated[str, typer.Option(help="Shown to whoever asks for it from then on.")],
    drop_alias: Annotated[
        bool, typer.Option("--drop-alias", help="Remove the aliases that point to it.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do it; else show what it affects.")] = False,
    as_json: Json = False,
) -> None:
    """Retire a version: no reference resolves to it. Without --yes, say only what it affects."""
    from flows.actions.publish import run_retire
    from flows.views.rankings import show_retirement

    show_retirement(*run_retire(reference, reason, drop_alias=drop_alias, yes=yes), as_json=as_json)
