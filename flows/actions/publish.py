"""The actions of `ila rankings`: list, publish, adopt, pull, trace and retire."""

from pathlib import Path

from flows.plan.references import MADE_BY, ranking_run, resolve
from flows.results.publication import Publication, Trace
from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError, UserError
from ila_core.search.ranking import DOCUMENT, Ranking
from ila_core.search.ranking_card import RankingCard, make_card, markdown
from ila_core.search.ranking_reference import (
    File,
    Key,
    Published,
    ResolvedRanking,
    check_alias,
    parse,
)
from tasks.cache.lineage import controls, licences, lineage, seconds
from tasks.cache.lookup import open_lookup
from tasks.cache.payloads import fetch
from tasks.cache.step_run import StepRun
from tasks.steps.search.adopted import adopt_ranking
from tasks.tracking.client import sqlite_path
from tasks.tracking.ranking_version import Version
from tasks.tracking.registry import Registry


def cached_rankings() -> list[tuple[StepRun, Ranking | Exception]]:
    """Return all cached rankings, newest first; a damaged or outdated one comes as its error."""
    lookup = open_lookup(RuntimeConfig.from_env())
    runs = [run for step in MADE_BY for run in lookup.finished_steps(step)]
    found: list[tuple[StepRun, Ranking | Exception]] = []
    for run in sorted(runs, key=lambda r: -r.start_time):
        try:
            found.append((run, Ranking.load(fetch(run) / DOCUMENT)))
        except (CheckError, OSError, UserError) as error:
            found.append((run, error))
    return found


def published_rankings() -> list[Version]:
    """Return all published versions, including retired ones; none if there is no store yet."""
    runtime = RuntimeConfig.from_env()
    path = sqlite_path(runtime.tracking_uri)
    if path is not None and not path.exists():
        return []

    return Registry(runtime).versions()


def card_of(ranking: Ranking, *, adopted: bool = False) -> RankingCard:
    """Build the ranking's card, with the data about its search in this cache."""
    runtime = RuntimeConfig.from_env()
    lookup = open_lookup(runtime, ranking.base_model)
    steps = lineage(ranking, lookup)
    return make_card(
        ranking,
        adopted=adopted,
        licences=licences(steps),
        controls=controls(ranking, steps, lookup, runtime.home),
        seconds=seconds(steps),
    )


def run_publish(reference: str, name: str, alias: str | None) -> Publication:
    """Publish the ranking `reference` as a version of `name`, and move the alias to it.

    Raises:
        UserError: when `reference` is a file (adopt it first), or the name or alias is invalid.
        CheckError: when the payload is damaged.
    """
    asked = parse(reference)
    if isinstance(asked, File):
        raise UserError(
            f"{reference} is a file, and a version is made of a cached step: `ila rankings adopt "
            f"{reference}` first, and publish the key that it prints"
        )
    if alias is not None:
        check_alias(alias)
    registry = Registry(RuntimeConfig.from_env())
    run = ranking_run(asked.key) if isinstance(asked, Key) else registry.run(registry.find(asked))
    ranking = registry.document(run, reference)
    card = card_of(ranking, adopted=run.tags["ila.step"] == "adopted")
    version = registry.publish(run, ranking, name, markdown(card))
    before = registry.point(name, alias, version.number) if alias is not None else None
    return Publication(version, card, alias, before)


def run_adopt(file: Path) -> tuple[Ranking, str]:
    """Copy a document into the cache as a step; return the ranking and its key.

    Raises:
        UserError: when the file is no ranking.
        CheckError: when its layers do not match its fingerprint.
    """
    from flows.actions.run import followed

    ranking = Ranking.load(file)
    step = adopt_ranking(ranking)
    runtime = RuntimeConfig.from_env()
    if not open_lookup(runtime, ranking.base_model).finished(str(step.key)):
        with followed():
            from tasks.cache.store import Store
            from tasks.run.execute import run_here

            run_here([step], Store(runtime, ranking.base_model), runtime)
    return ranking, str(step.key)


def run_pull(reference: str, out: Path) -> tuple[ResolvedRanking, Path, Path]:
    """Write the document and its card; return the ranking and both paths.

    Raises:
        UserError: when `out` does not end in .json, or one of the two files exists.
    """
    beside = out.with_suffix(".md")
    if out.suffix != ".json":
        raise UserError(f"--out {out}: give a file ending in .json, which is then a reference too")
    for path in (out, beside):
        if path.exists():
            raise UserError(f"--out {out}: {path} exists; give a new file")
    found = resolve(reference)
    card = found.card or markdown(card_of(found.ranking))
    out.parent.mkdir(parents=True, exist_ok=True)
    found.ranking.save(out)
    beside.write_text(card, encoding="utf-8")
    return found, out, beside


def trace(found: ResolvedRanking) -> Trace:
    """Return the steps that made and used a ranking, and all versions of the same document."""
    lookup = open_lookup(RuntimeConfig.from_env(), found.ranking.base_model)
    same = [v for v in published_rankings() if v.digest == found.digest]
    return Trace(found, lineage(found.ranking, lookup), tuple(same))


def run_retire(
    reference: str, reason: str, *, drop_alias: bool, yes: bool
) -> tuple[Version, Trace, bool]:
    """Retire a version if `yes`; return it, the steps that used it, and whether it was retired.

    Raises:
        UserError: when `reference` is no version, or it is retired, or an alias points to it.
    """
    asked = parse(reference)
    if not isinstance(asked, Published) or asked.version is None:
        raise UserError(f"{reference!r}: give the version itself, name/version: an alias may move")
    if not reason.strip() or len(reason) > 500:
        raise UserError("--reason: give one, of at most 500 characters")
    registry = Registry(RuntimeConfig.from_env())
    version = registry.find(asked)
    affected = trace(
        ResolvedRanking(registry.read(version), reference, version.reference, version.card)
    )
    if yes:
        if drop_alias:
            version = registry.drop(version)
        registry.retire(version, reason)
    return version, affected, yes
