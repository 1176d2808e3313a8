"""The output of `ila rankings`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flows.views.printing import print_frame, print_json, print_table
from ila_core.search.agreement import agreements_between
from ila_core.search.ranking import Ranking, kept_count, order
from ila_core.search.ranking_card import RankingCard, markdown
from ila_core.search.ranking_reference import ResolvedRanking
from ila_core.selection.select import reason
from tasks.cache.step_run import StepRun
from tasks.tracking.ranking_version import Version

if TYPE_CHECKING:
    from flows.results.publication import Publication, Trace


def show_rankings(
    cached: Sequence[tuple[StepRun, Ranking | Exception]],
    published: Sequence[Version],
    *,
    as_json: bool,
) -> None:
    """Print one line per ranking, and on standard error why a ranking cannot be read."""
    rows = []
    for run, ranking in cached:
        if not isinstance(ranking, Ranking):
            typer.echo(f"key:{run.key} cannot be read: {ranking}", err=True)
            continue
        rows.append(
            {
                "ranking": f"key:{run.key}",
                "state": "adopted" if run.tags["ila.step"] == "adopted" else "cached",
                "base_model": ranking.base_model,
                "layers": len(ranking.layers),
                "datasets": list(ranking.datasets),
                "seeds": len(ranking.seeds(ranking.datasets[0])),
                "published_as": [v.reference for v in published if v.digest == ranking.digest],
                "run": run.run_id,
            }
        )
    if as_json:
        return print_json([*rows, *map(_published, published)])
    if not cached and not published:
        typer.echo("no ranking is cached yet; make one with `ila search PROFILE`")
    if published:
        typer.echo("published")
        _table([_published(version) for version in published])
    if rows:
        typer.echo("in the cache")
        _table(rows)


def show_ranking(
    found: ResolvedRanking,
    card_of: Callable[[Ranking], RankingCard],
    *,
    keep: float | None,
    as_json: bool,
) -> None:
    """Print the card, every layer's score and rank, and the caveats."""
    from ila_core.report.headline import caveats
    from ila_core.report.tables import ranking_table

    ranking = found.ranking
    if as_json:
        return print_json(ranking.model_dump(mode="json"))
    keep = ranking.keep if keep is None else keep
    typer.echo(f"{found.said}\n")
    typer.echo(found.card or markdown(card_of(ranking)))
    typer.echo(f"{ranking.base_model}, key {ranking.key}, scorer {ranking.scorer}, keep {keep:g}")
    for sentence in caveats(ranking, keep):
        typer.echo(sentence)
    print_frame(ranking_table(ranking, keep))
    for dataset in ranking.datasets:
        by_score = order(ranking.scores(dataset), ranking.layers)
        kept = kept_count(keep, len(by_score))
        if kept > 0:
            typer.echo(reason("ila", dataset, by_score[:kept], by_score[kept:], ranking))


def show_comparison(ranking: Ranking, other: Ranking, *, keep: float | None, as_json: bool) -> None:
    """Print the agreement of each dataset of one ranking with each of the other."""
    from ila_core.report.tables import agreement_table

    found = agreements_between(ranking, other, ranking.keep if keep is None else keep)
    if as_json:
        return print_json([agreement.model_dump(mode="json") for agreement in found])
    print_frame(agreement_table(found))


def show_publication(made: Publication, *, as_json: bool) -> None:
    """Print the version, the alias's former target, and how to read the ranking."""
    version = made.version
    if as_json:
        return print_json(
            {
                **_published(version),
                "alias": made.alias,
                "before": made.before,
                "card": made.card.model_dump(mode="json"),
            }
        )
    typer.echo(f"{version.reference}, digest {version.digest[:12]}, of key:{version.key}")
    called = f"/{version.number}"
    if made.alias is not None:
        was = "" if made.before in (None, version.reference) else f"; it was {made.before}"
        typer.echo(f"{version.name}@{made.alias} is {version.reference} now{was}")
        called = f"@{made.alias}"
    typer.echo(
        f"anybody:  ila finetune PROFILE --ranking {version.name}{called}\n"
        f"without ILA:  mlflow.artifacts.load_dict("
        f'"models:/layer-ranking.{version.name}{called}/ranking.json")'
    )


def show_adoption(ranking: Ranking, key: str, *, as_json: bool) -> None:
    """Print the key to publish the adopted ranking by."""
    if as_json:
        return print_json(
            {
                "ranking": f"key:{key}",
                "base_model": ranking.base_model,
                "layers": len(ranking.layers),
                "digest": ranking.digest,
            }
        )
    typer.echo(f"key:{key}, of {ranking.base_model}, {len(ranking.layers)} layers: adopted")
    typer.echo(f"to publish it: ila rankings publish key:{key} --name {ranking.base_model}")


def show_pull(found: ResolvedRanking, document: Path, card: Path, *, as_json: bool) -> None:
    """Print the ranking that was pulled, and the paths of the two files."""
    if as_json:
        return print_json(
            {
                "reference": found.reference,
                "pinned": found.pinned,
                "digest": found.digest,
                "ranking": str(document),
                "card": str(card),
            }
        )
    typer.echo(f"{found.said}, digest {found.digest[:12]}\n  {document}\n  {card}")


def show_trace(found: Trace, *, as_json: bool) -> None:
    """Print the steps that made and used the ranking, its names, and what retiring it affects."""
    if as_json:
        return print_json(_traced(found))
    typer.echo(f"{found.ranking.said}, digest {found.ranking.digest[:12]}")
    for title, runs, otherwise in (
        ("made by", found.steps.made_by, "no step of its search is in this cache"),
        ("used by", found.steps.used_by, "nothing in this cache"),
    ):
        typer.echo(title if runs else f"{title}: {otherwise}")
        if runs:
            _table([_step(run) for run in runs])
    typer.echo("published as" if found.versions else "published as: nothing")
    if found.versions:
        _table([_published(version) for version in found.versions])
    typer.echo(_affected(found))


def show_retirement(version: Version, found: Trace, done: bool, *, as_json: bool) -> None:
    """Print what the retirement affects, and whether it was done."""
    if as_json:
        return print_json({"retired": version.reference if done else None, **_traced(found)})
    typer.echo(_affected(found))
    for run in found.steps.of_kind("finetune"):
        typer.echo(f"  key:{run.key}  {run.tags.get('ila.label', '')}")
    if done:
        typer.echo(f"{version.reference} is retired: whoever asks for it is told why")
    else:
        typer.echo(f"nothing was changed; to retire {version.reference}, say --yes")


def _affected(found: Trace) -> str:
    aliases = [f"{v.name}@{a}" for v in found.versions for a in v.aliases]
    trained = len(found.steps.of_kind("finetune"))
    moved = f"{', '.join(aliases)} (to be moved or dropped first)" if aliases else "no alias"
    return (
        f"a retirement would affect {moved}; {trained} finished fine-tunings here were made with "
        "it, and stay as they are"
    )


def _traced(found: Trace) -> dict[str, object]:
    return {
        "reference": found.ranking.reference,
        "pinned": found.ranking.pinned,
        "digest": found.ranking.digest,
        "made_by": [_step(run) for run in found.steps.made_by],
        "used_by": [_step(run) for run in found.steps.used_by],
        "published_as": [_published(version) for version in found.versions],
    }


def _step(run: StepRun) -> dict[str, object]:
    return {
        "step": run.tags.get("ila.label", run.tags["ila.step"]),
        "key": run.key,
        "started": _day(run.start_time),
        "called_it": run.tags.get("ila.ranking"),
        "run": run.run_id,
    }


def _published(version: Version) -> dict[str, object]:
    return {
        "ranking": version.reference,
        "state": "published" if version.retired is None else f"retired: {version.retired}",
        "aliases": list(version.aliases),
        "base_model": version.tags["ila.base_model"],
        "datasets": version.tags["ila.datasets"].split(", "),
        "published": _day(version.published),
        "key": version.key,
        "digest": version.digest,
        "run": version.run_id,
    }


def _day(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M} UTC"


def _table(rows: Sequence[Mapping[str, object]]) -> None:
    print_table(list(rows[0]), [[_plain(*cell) for cell in row.items()] for row in rows])


def _plain(column: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return "" if value is None else str(value)[: 12 if column == "digest" else None]
