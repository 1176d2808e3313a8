"""Scorers that need no search, only names and shapes: one file each, one line in `SCORERS`.

The search's own scores (`ila_core.gates`) stand beside them in every agreement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ila_core.ranking import Layer
from ila_core.scorers import size

SCORERS: dict[str, Callable[[Sequence[Layer]], dict[str, float]]] = {"size": size.score}
