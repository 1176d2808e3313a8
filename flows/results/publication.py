"""What publishing a ranking did, and where a ranking comes from."""

from dataclasses import dataclass

from ila_core.search.ranking_card import RankingCard
from ila_core.search.ranking_reference import ResolvedRanking
from tasks.cache.lineage import Lineage
from tasks.tracking.ranking_version import Version


@dataclass(frozen=True)
class Publication:
    """What was published, and where its alias pointed before."""

    version: Version
    card: RankingCard
    alias: str | None
    before: str | None


@dataclass(frozen=True)
class Trace:
    """Both sides of a ranking, and the names that it has."""

    ranking: ResolvedRanking
    steps: Lineage
    versions: tuple[Version, ...]
