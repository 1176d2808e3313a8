"""A ranking that was made elsewhere, taken into the cache by its content, so that it has a key."""

from pathlib import Path

from ila_core.search.ranking import DOCUMENT, Ranking
from tasks.cache.step import Context, Step

VERSION = 1


def adopt_ranking(ranking: Ranking) -> Step:
    """The step whose payload is the document, as it is.

    Raises:
        CheckError: its layers are not those that it says.
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
