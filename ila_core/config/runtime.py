"""Where and how a run happens."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ila_core.errors import UserError

_VARIABLES = {
    "device": "ILA_DEVICE",
    "micro_batch": "ILA_MICRO_BATCH",
    "eval_batch": "ILA_EVAL_BATCH",
    "checkpoint_seconds": "ILA_CHECKPOINT_SECONDS",
    "jobs": "ILA_JOBS",
    "gpu_limit": "ILA_GPU_LIMIT",
    "prefect": "ILA_PREFECT",
}
_JUDGE_VARIABLES = {
    "concurrency": "ILA_JUDGE_CONCURRENCY",
    "requests": "ILA_JUDGE_REQUESTS",
    "tokens": "ILA_JUDGE_TOKENS",
    "timeout": "ILA_JUDGE_TIMEOUT",
}


class JudgeLimits(BaseModel):
    """What a judge at an endpoint may cost at once; nothing here changes a verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    concurrency: int = Field(default=4, ge=1)
    requests: int | None = Field(default=None, ge=1)
    """Most requests of one command, failed ones included."""
    tokens: int | None = Field(default=None, ge=1)
    """Most tokens of the same, prompts and replies together."""
    timeout: float = Field(default=120.0, gt=0)
    """Seconds without a byte."""
    max_retries: int = Field(default=5, ge=0)
    """Retries of one request that failed: rate limit, status 500, time-out, broken reply."""


class RuntimeConfig(BaseModel):
    """Where and how a run happens. Recorded with each result, never part of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    """Everything this project writes by itself: lock, embedded MLflow, private checkpoints."""
    tracking_uri: str
    device: str = "auto"
    micro_batch: int = Field(default=8, ge=1)
    """Most packed rows per forward pass while training. A row holds one or several conversations
    and is at most as long as the step's longest one."""
    eval_batch: int = Field(default=32, ge=1)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Least time between two checkpoints of a training; 0 writes one after every step."""
    jobs: int = Field(default=0, ge=0)
    """Steps that compute at once, each in a process of its own; 0: one by one, in this process."""
    gpu_limit: str | None = None
    """The Prefect server's global concurrency limit of which a step holds a slot as it computes."""
    prefect: Literal["on", "off"] = "on"
    """Whether steps are tasks of a Prefect flow; else they run one after the other in a loop."""
    progress: bool = True
    judge: JudgeLimits = JudgeLimits()

    @property
    def checkpoints(self) -> Path:
        """Private checkpoints of trainings that are not finished, a folder each."""
        return self.home / "checkpoints"

    @field_validator("device")
    @classmethod
    def _without_number(cls, device: str) -> str:
        if ":" in device:  # Trainer takes the first one, wherever the model is
            raise ValueError("give the kind alone, and choose one with CUDA_VISIBLE_DEVICES")
        return device

    @classmethod
    def from_env(cls) -> RuntimeConfig:
        """Read `ILA_HOME`, `ILA_DEVICE`, `ILA_MICRO_BATCH` ... from the environment.

        Raises:
            UserError: a variable whose value cannot be used.
        """
        home = Path(os.environ.get("ILA_HOME", ".ila")).expanduser().absolute()
        uri = os.environ.get("MLFLOW_TRACKING_URI")
        if not uri and "?" in str(home):  # with which the options of an SQLite address begin
            raise UserError(f"ILA_HOME={home}: choose a folder without a question mark in its path")
        uri = uri or f"sqlite:///{home / 'mlflow.db'}"
        given = {f: os.environ[v] for f, v in _VARIABLES.items() if os.environ.get(v)}
        limits = {f: os.environ[v] for f, v in _JUDGE_VARIABLES.items() if os.environ.get(v)}
        try:
            return cls.model_validate({"home": home, "tracking_uri": uri, **given, "judge": limits})
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][-1])
            variable = (_VARIABLES | _JUDGE_VARIABLES)[field]
            raise UserError(f"{variable}={os.environ[variable]}: {first['msg']}") from error
