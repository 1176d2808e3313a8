"""Resolving references to rankings, for every command and flow that takes one."""

from ila_core.config import RuntimeConfig
from ila_core.errors import UserError
from ila_core.search.ranking import DOCUMENT, Ranking
from ila_core.search.ranking_reference import File, Key, ResolvedRanking, parse
from tasks.cache.lookup import open_lookup
from tasks.cache.payloads import fetch
from tasks.cache.step_run import StepRun
from tasks.tracking.registry import Registry

MADE_BY = ("ranking", "adopted")
"""Steps whose payload is a ranking: of a search, and of an adopted document."""


def resolve(reference: str) -> ResolvedRanking:
    """Resolve a reference to its ranking, and to a pinned reference that never changes.

    Call it once, at the start of a command or flow, because an alias may move at any time.

    Raises:
        UserError: when the reference is invalid or names nothing.
        CheckError: when the ranking is damaged or was retired.
    """
    asked = parse(reference)
    if isinstance(asked, File):
        return ResolvedRanking(Ranking.load(asked.path), reference, pinned=reference)
    if isinstance(asked, Key):
        ranking = Ranking.load(fetch(ranking_run(asked.key)) / DOCUMENT)
        return ResolvedRanking(ranking, reference, pinned=reference)

    registry = Registry(RuntimeConfig.from_env())
    version = registry.find(asked)
    return ResolvedRanking(
        registry.read(version), reference, pinned=version.reference, card=version.card
    )


def ranking_run(key: str) -> StepRun:
    """Return the finished step with this key, whose payload is a ranking.

    Raises:
        UserError: when no step has the key, or its payload is no ranking.
    """
    runs = open_lookup(RuntimeConfig.from_env()).finished(key)
    if found := [run for run in runs if run.tags["ila.step"] in MADE_BY]:
        return found[0]
    kind = f" (that key is a {runs[0].tags['ila.step']})" if runs else ""
    raise UserError(f"no finished ranking has key:{key}; see `ila rankings list`{kind}")
