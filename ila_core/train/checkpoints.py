"""Private checkpoints of a training: killed at any step, it goes on where the last one lies.

On a CPU, with the same micro-batch, what comes out is bit-identical to an undisturbed training;
other devices round, and SDPA's backward pass on CUDA does so differently each time.

`transformers.Trainer` saves and restores optimizer, schedule and random states. Added here: only
what trains is saved, a checkpoint counts only once a manifest of digests lies in it (a kill may
come in the middle of writing), and it belongs to one training.

    <folder>/checkpoint-120/{trained.safetensors,optimizer.pt,scheduler.pt,...,complete.json}
"""

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ila_core.errors import CheckError
from ila_core.locks import exclusive

log = logging.getLogger("ila")

KEPT = 2
"""Newest checkpoints kept: the last one may be the one that a kill cut short."""
_MANIFEST = "complete.json"


@dataclass(frozen=True)
class CheckpointFolder:
    """Where the checkpoints of one training go, and how often one is written."""

    path: Path
    seconds: float
    """Least time between two; 0 writes one after every step."""

    @contextmanager
    def held(self, identity: str) -> Iterator[Path | None]:
        """Lock the folder and yield its newest complete checkpoint, or `None`.

        Args:
            identity: digest of rows, settings and shapes. What it cannot see, such as the frozen
                weights, the folder's name has to stand for.

        Raises:
            LockError: another process trains from here.
            CheckError: the checkpoint is another training's.
        """
        self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
        with exclusive(self.path / ".lock", "checkpoints of one training", seconds=0):
            yield self._newest(identity)

    def found(self) -> list[Path]:
        """List the checkpoints, complete or not, oldest first."""
        folders = self.path.glob("checkpoint-*")
        return sorted(folders, key=lambda folder: int(folder.name.rpartition("-")[2]))

    def _newest(self, identity: str) -> Path | None:
        for checkpoint in reversed(self.found()):
            manifest = _read_manifest(checkpoint)
            if manifest is None:
                log.warning("%s is incomplete and left out", checkpoint)
                shutil.rmtree(checkpoint)
            elif manifest["identity"] != identity:
                raise CheckError(
                    f"{checkpoint} was written by another training (other settings, rows or "
                    f"shapes); delete {self.path} to start anew"
                )
            else:
                return checkpoint
        return None


def seal(checkpoint: Path, identity: str) -> None:
    """Mark a checkpoint as complete: from now on a training may resume from it."""
    manifest = {"identity": identity, "files": _digests(checkpoint)}
    partial = checkpoint / f"{_MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=1), encoding="ascii")
    partial.rename(checkpoint / _MANIFEST)


def _read_manifest(checkpoint: Path) -> dict[str, Any] | None:
    """Read the manifest; `None` where it is missing or does not match the files."""
    try:
        manifest: dict[str, Any] = json.loads((checkpoint / _MANIFEST).read_bytes())
    except (FileNotFoundError, ValueError):  # a power cut may leave an empty one
        return None
    return manifest if manifest["files"] == _digests(checkpoint) else None


def _digests(checkpoint: Path) -> dict[str, str]:
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(checkpoint.iterdir())
        if not file.name.startswith(_MANIFEST)
    }


@contextmanager
def held_folder(
    folder: CheckpointFolder | None, identity: str
) -> Iterator[tuple[Path, Path | None]]:
    """Yield Trainer's output folder, and the checkpoint in it to resume from or None."""
    if folder is None:
        with tempfile.TemporaryDirectory() as unused:
            yield Path(unused), None
    else:
        with folder.held(identity) as checkpoint:
            yield folder.path, checkpoint
