"""Copy a ranking that was made elsewhere into the cache, under a hash of its content."""

from pathlib import Path

from ila_core.search.ranking import DOCUMENT, Ranking
from tasks.cache.step import Context, Step

VERSION = 1


def adopt_ranking(ranking: Ranking) -> Step:
    """Describe the import of a ranking; the payload is the unchanged document.

    Raises:
        CheckError: when its layers do not match its fingerprint.
    """
    ranking.check()
    return Step(
        "adopted",
        label="adopted ranking",
        version=VERSION,
        identity={"ranking": ranking.digest, "base_model": ranking.base_model},
        given={"ranking": ranking},
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    step.given["ranking"].save(out / DOCUMENT)
