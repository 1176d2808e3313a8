"""Compare the datasets' rankings with each other and with chance, and intersect them."""

from itertools import combinations
from pathlib import Path

from ila_core.config import SearchConfig
from ila_core.search.agreement import agreements, intersection
from ila_core.search.ranking import Ranking
from tasks.cache.payloads import write_json
from tasks.cache.step import Context, Step

VERSION = 1


def agree(ranking: Step, search: SearchConfig) -> Step:
    """Describe the agreement of all pairs of datasets, of seeds, and with the order by size."""
    return Step(
        "agreement",
        label="agreement",
        version=VERSION,
        identity={"keep": search.keep, "least": search.least},
        inputs={"ranking": ranking},
        given={"search": search},
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    from ila_core.search.agreement_within_types import correlation_within_types

    search: SearchConfig = step.given["search"]
    ranking = Ranking.load(inputs["ranking"] / "ranking.json")
    found = agreements(ranking, search.keep)
    columns = [(d, ranking.scores(d)) for d in ranking.datasets]
    pairs = list(combinations(columns, 2))
    for dataset in ranking.datasets:
        of_seed = [
            (f"{dataset} seed {s}", ranking.scores(dataset, s)) for s in ranking.seeds(dataset)
        ]
        pairs += combinations(of_seed, 2)
    correlations = [correlation_within_types(ranking.layers, a=a, b=b) for a, b in pairs]
    write_json(
        out / "agreement.json",
        {
            "agreements": [agreement.model_dump(mode="json") for agreement in found],
            "within_types": [found.model_dump(mode="json") for found in correlations],
            "intersection": intersection(ranking, search.least).model_dump(mode="json"),
        },
    )
