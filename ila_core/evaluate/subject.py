"""The input of a benchmark: the model under evaluation, its data and the runtime settings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ila_core.config import RuntimeConfig
from ila_core.data.batches import Row
from ila_core.inference.generate import Answer
from ila_core.keys import key_of

Need = Literal["rows", "texts", "answers"]
"""Input of a benchmark that other steps compute."""
Resolved = dict[str, Any]
"""A JSON object: all that changes a benchmark's result, with files and hub revisions resolved."""


@dataclass(frozen=True)
class Subject:
    model: Any
    """The model on its device, with its adapter if it has one; `None` when only answers exist."""
    tokenizer: Any
    identity: str
    """Identifies the base model's files, and so its tokenizer."""
    runtime: RuntimeConfig
    """Gives the home folder, where task files are written, and the batch size."""
    on_progress: Callable[[float], None]
    """Called with the fraction that is done."""
    checkpoints: Path | None = None
    """Folder for the scores of finished forward passes, until the evaluation is complete."""
    rows: Sequence[Row] = ()
    """Held-out conversations, for benchmarks that need `rows`."""
    rows_digest: str = ""
    answers: Sequence[Answer] = ()
    """Answers to the benchmark's questions, for benchmarks that need `answers`."""
    answers_given: bool = False
    """Whether the answers come from a file, so that their generation settings are unknown."""
    texts: Sequence[list[int]] = ()
    """Token ids of texts that the base model generated, for benchmarks that need `texts`."""

    def task_folder(self, benchmark: str, resolved: Resolved) -> Path:
        """Return the folder of lm-eval's task files for `resolved` (`lm_eval --include_path`)."""
        return self.runtime.home / "benchmarks" / f"{benchmark}-{key_of(resolved)}"
