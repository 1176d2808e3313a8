"""What a run found, as one page: `page` puts `tables` and `figures` of a `ReportData` together."""

from __future__ import annotations

from typing import Any

from ila_core.agreement import Agreement, Intersection
from ila_core.config import Frozen, Profile
from ila_core.ranking import Ranking
from ila_core.report.comparison import ArmResult
from ila_core.selection import Selection

Payload = dict[str, Any]
"""A step's JSON result, as that step wrote it."""


class ReportData(Frozen):
    """Everything the page shows. It computes nothing that is not already in here."""

    profile: Profile
    ranking: Ranking
    agreements: tuple[Agreement, ...]
    intersection: Intersection
    selections: dict[str, Selection]
    """By arm."""
    arms: tuple[ArmResult, ...]
    """From `compare_arms`; the base comes last."""
    prepared: dict[str, Payload]
    """`prepared.json` by dataset."""
    stage1: tuple[Payload, ...]
    stage2: tuple[Payload, ...]
    keys: dict[str, str]
    """Step label to key, in the order of the run."""
    provenance: Payload
    """Versions, git state, hardware; nested as deep as it likes."""
