"""What a benchmark is given: the model under evaluation, and where and how it may work."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ila_core.config import ModelConfig
from ila_core.fingerprint import key_of

if TYPE_CHECKING:
    from ila_core.batches import Row


Need = Literal["rows", "texts"]
"""What a benchmark reads that is made by other steps."""


@dataclass(frozen=True)
class Subject:
    model: Any
    """On its device, with its adapter if it has one."""
    tokenizer: Any
    config: ModelConfig
    identity: str
    """Stands for the base model's files, and so for its tokenizer."""
    home: Path
    """Kept between runs and shared by them: task files."""
    eval_batch: int
    """Rows per forward pass, at most."""
    progress: bool
    on_progress: Callable[[float], None]
    """Told the fraction that is done."""
    rows: Sequence[Row] = ()
    """Held-out conversations, for the benchmarks that read them."""
    rows_digest: str = ""
    texts: Sequence[str] = ()
    """General text, for the benchmarks that read it."""

    def task_folder(self, benchmark: str, resolved: Mapping[str, Any]) -> Path:
        """Where lm-eval's task files of this content lie, kept for `lm_eval --include_path`."""
        return self.home / "benchmarks" / f"{benchmark}-{key_of(dict(resolved))}"
