"""A step: one cached unit of work, described before anything runs.

A step knows its name, its version, what identifies it and which steps feed it; from that alone
comes its key. Nothing here computes: `tasks/steps/` says how, `tasks/run/execute.py` does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from ila_core.config import RuntimeConfig
from ila_core.keys import canonical, key_of
from ila_core.resolve import Unknown

if TYPE_CHECKING:
    from ila_core.train.loop import TrainRuntime


@dataclass(frozen=True)
class Context:
    """What a computation may know beyond its identity: where it runs and whom to tell."""

    runtime: RuntimeConfig
    on_metrics: Callable[[int, dict[str, float]], None]
    checkpoints: Path
    """This step's own folder: kept while it is unfinished, so that it goes on after a kill."""
    measurements: dict[str, Any] = field(default_factory=dict)
    """Filled by the computation with what it measured (seconds, memory); never hashed."""

    def training(self, label: str) -> TrainRuntime:
        """How the training of a step called `label` is laid out and watched."""
        from ila_core.train.checkpoints import CheckpointFolder
        from ila_core.train.loop import TrainRuntime

        return TrainRuntime(
            micro_batch=self.runtime.micro_batch,
            on_metrics=self.on_metrics,
            label=label,
            progress=self.runtime.progress,
            checkpoints=CheckpointFolder(self.checkpoints, self.runtime.checkpoint_seconds),
        )


class Step:
    """A node of the plan.

    A plain class, not a dataclass: Prefect walks into the dataclasses it is handed, and would copy
    the whole graph for each task.

    Args:
        name: the kind of step, an entry of `tasks.steps.table.STEPS`.
        label: what a person calls it (`stage1 lima seed 0`); never hashed.
        version: bumped when the same identity would give other numbers.
        identity: everything that changes the result, as plain data, or why it is unknown.
        inputs: the steps whose payloads it reads, by the name it reads them under.
        given: what the computation needs and the identity already stands for (paths, model).
    """

    def __init__(
        self,
        name: str,
        *,
        label: str,
        version: int,
        identity: Mapping[str, Any] | Unknown,
        inputs: Mapping[str, Step] | None = None,
        given: Mapping[str, Any] | None = None,
    ) -> None:
        self.name = name
        self.label = label
        self.version = version
        self.inputs = dict(inputs or {})
        self.given = dict(given or {})
        self.identity = identity

    def __repr__(self) -> str:
        return f"<Step {self.label}: {self.title}>"

    @cached_property
    def unknown(self) -> str | None:
        """Why the key cannot be computed, or `None`."""
        for step in self.inputs.values():
            if step.unknown:
                return f"it needs {step.label}"
        return self.identity.reason if isinstance(self.identity, Unknown) else None

    @cached_property
    def key(self) -> str | None:
        """First 12 digits of the SHA-256 over name, version, identity and the inputs' keys."""
        if self.unknown:
            return None
        return key_of(
            {
                "step": self.name,
                "version": self.version,
                "identity": self.identity,
                "inputs": {name: step.key for name, step in self.inputs.items()},
            }
        )

    @property
    def title(self) -> str:
        """`stage1-lima-seed-0-3f9c21a07b4e`: the label and the key."""
        return f"{self.label.replace(' ', '-')}-{self.key or 'UNKNOWN'}"

    @cached_property
    def fields(self) -> dict[str, str]:
        """The identity, flat: what a plan compares with cached runs, and MLflow shows as params."""
        if isinstance(self.identity, Unknown):
            return {}
        own = dict(_flatten(self.identity))
        return own | {f"input.{name}": step.key or "UNKNOWN" for name, step in self.inputs.items()}


def in_order(*last: Step) -> list[Step]:
    """All the steps that `last` need, inputs before users, each once (by key, then by object)."""
    done: dict[str | int, Step] = {}

    def visit(step: Step) -> None:
        identifier = step.key or id(step)
        if identifier in done:
            return
        for upstream in step.inputs.values():
            visit(upstream)
        done[identifier] = step

    for step in last:
        visit(step)
    return list(done.values())


def relabel(last: Iterable[Step], note: str, *, but: Iterable[Step]) -> None:
    """Append `note` to the label of each step that `last` need and `but` do not."""
    done = set()

    def visit(step: Step, *, change: bool) -> None:
        if id(step) not in done:
            done.add(id(step))
            for upstream in step.inputs.values():
                visit(upstream, change=change)
            if change:
                step.label += note

    for step in but:
        visit(step, change=False)
    for step in last:
        visit(step, change=True)


def _flatten(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, BaseModel):
        value = value.model_dump()
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _flatten(inner, f"{prefix}.{name}" if prefix else str(name))
    else:
        yield prefix, canonical(value)
