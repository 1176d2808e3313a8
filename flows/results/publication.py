"""The result of publishing a ranking, and of tracing one."""

from dataclasses import dataclass

from ila_core.search.ranking_card import RankingCard
from ila_core.search.ranking_reference import ResolvedRanking
from tasks.cache.lineage import Lineage
from tasks.tracking.ranking_version import Version


@dataclass(frozen=True)
class Publication:
    """The published version, and the former target of its alias."""

    version: Version
    card: RankingCard
    alias: str | None
    before: str | None


@dataclass(frozen=True)
class Trace:
    """The steps that made and used a ranking, and its published versions."""

    ranking: ResolvedRanking
    steps: Lineage
    versions: tuple[Version, ...]
