"""What a benchmark is given: the model under evaluation, and where and how it may work."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ila_core.config import RuntimeConfig
from ila_core.data.batches import Row
from ila_core.inference.generate import Answer
from ila_core.keys import key_of

Need = Literal["rows", "texts", "answers"]
"""What a benchmark reads that is made by other steps."""


@dataclass(frozen=True)
class Subject:
    model: Any
    """On its device, with its adapter if it has one; `None` where its answers are all there is."""
    tokenizer: Any
    identity: str
    """Stands for the base model's files, and so for its tokenizer."""
    runtime: RuntimeConfig
    """Where task files are kept, and how much is done at a time."""
    on_progress: Callable[[float], None]
    """Told the fraction that is done."""
    checkpoints: Path | None = None
    """This evaluation's own folder: what is scored lies there until all of it is."""
    rows: Sequence[Row] = ()
    """Held-out conversations, for the benchmarks that read them."""
    rows_digest: str = ""
    answers: Sequence[Answer] = ()
    """To the benchmark's questions, for the benchmarks that look at nothing else."""
    answers_given: bool = False
    """Whether they come from a file, so that nobody can say how they were made."""
    texts: Sequence[list[int]] = ()
    """Token rows that the base wrote, for the benchmarks that read them."""

    def task_folder(self, benchmark: str, resolved: Mapping[str, Any]) -> Path:
        """Where lm-eval's task files of this content lie, kept for `lm_eval --include_path`."""
        return self.runtime.home / "benchmarks" / f"{benchmark}-{key_of(dict(resolved))}"
