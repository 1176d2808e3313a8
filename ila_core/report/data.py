"""The data of a report: `page` combines the `tables` and `figures` of one `ReportData`."""

from ila_core.compare.results import Evaluation
from ila_core.config import Frozen, Profile
from ila_core.report.comparison import ArmResult, Payload
from ila_core.search.agreement import Agreement, Intersection
from ila_core.search.agreement_within_types import WithinTypes
from ila_core.search.ranking import Ranking
from ila_core.selection.selection import Selection


class ReportData(Frozen):
    """Everything that the page shows."""

    profile: Profile
    ranking: Ranking
    agreements: tuple[Agreement, ...]
    within_types: tuple[WithinTypes, ...]
    """Correlations within layer types, of all pairs of datasets and of search seeds."""
    intersection: Intersection
    selections: dict[str, Selection]
    """Selections by arm."""
    arms: tuple[ArmResult, ...]
    """The results of `compare_arms`; the base comes last."""
    benchmarks: dict[str, dict[str, tuple[Evaluation, ...]]]
    """Arm to benchmark to the evaluation of each seed, without held-out loss (see `arms`)."""
    prepared: dict[str, Payload]
    """`prepared.json` by dataset."""
    stage1: tuple[Payload, ...]
    scores: tuple[Payload, ...]
    """Scores of all scorers, datasets and seeds: `stage2.json` for gates, else `score.json`."""
    masks: tuple[Payload, ...]
    """Mask curves: the `mask.json` of each dataset."""
    keys: dict[str, str]
    """Step label to key, in the order of the run."""
    provenance: Payload
    """Versions, git state and hardware, as a nested mapping."""
