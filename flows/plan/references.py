"""Rankings by reference, for every command and flow that takes one."""

from ila_core.config import RuntimeConfig
from ila_core.errors import UserError
from ila_core.search.ranking import DOCUMENT, Ranking
from ila_core.search.ranking_reference import File, Key, ResolvedRanking, parse
from tasks.cache.lookup import open_lookup
from tasks.cache.payloads import fetch
from tasks.cache.step_run import StepRun
from tasks.tracking.registry import Registry

MADE_BY = ("ranking", "adopted")
"""The steps whose payload is a ranking: a search's, and one that was made elsewhere."""


def resolve(reference: str) -> ResolvedRanking:
    """The ranking that a reference means now, and what will mean it for good.

    To be called once, where a command or a flow begins: an alias may move at any time.

    Raises:
        UserError: nothing answers to it, or it is no reference.
        CheckError: what answers is damaged, or was retired.
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
    """The finished step with a key, whose payload is a ranking.

    Raises:
        UserError: no step has it, or one of another kind.
    """
    runs = open_lookup(RuntimeConfig.from_env()).finished(key)
    if found := [run for run in runs if run.tags["ila.step"] in MADE_BY]:
        return found[0]
    kind = f" (that key is a {runs[0].tags['ila.step']})" if runs else ""
    raise UserError(f"no finished ranking has key:{key}; see `ila rankings list`{kind}")
