"""What a run found, as one page: `page` puts `tables` and `figures` of a `ReportData` together."""

from typing import Any

from ila_core.compare.results import Evaluation
from ila_core.config import Frozen, Profile
from ila_core.report.comparison import ArmResult
from ila_core.search.agreement import Agreement, Intersection
from ila_core.search.agreement_within_types import WithinTypes
from ila_core.search.ranking import Ranking
from ila_core.selection.selection import Selection

Payload = dict[str, Any]
"""A step's JSON result, as that step wrote it."""


class ReportData(Frozen):
    """Everything the page shows. It computes nothing that is not already in here."""

    profile: Profile
    ranking: Ranking
    agreements: tuple[Agreement, ...]
    within_types: tuple[WithinTypes, ...]
    """Correlations of every pair of datasets, and of search seeds."""
    intersection: Intersection
    selections: dict[str, Selection]
    """The selection of each arm."""
    arms: tuple[ArmResult, ...]
    """From `compare_arms`; the base comes last."""
    benchmarks: dict[str, dict[str, tuple[Evaluation, ...]]]
    """Arm to benchmark to an evaluation for each seed; held-out loss stands with the arms."""
    prepared: dict[str, Payload]
    """`prepared.json` by dataset."""
    stage1: tuple[Payload, ...]
    scores: tuple[Payload, ...]
    """`stage2.json` for the gates, else `score.json`, of every scorer, dataset and seed."""
    masks: tuple[Payload, ...]
    """`mask.json` of every dataset."""
    keys: dict[str, str]
    """Step label to key, in the order of the run."""
    provenance: Payload
    """Versions, git state, hardware; nested as deep as it likes."""
