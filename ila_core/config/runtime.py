"""Where and how a run happens."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ila_core.errors import UserError


class RuntimeConfig(BaseModel):
    """Where and how a run happens. Recorded with each result, never part of a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    home: Path
    """Everything this project writes by itself: lock, embedded MLflow, private checkpoints."""
    tracking_uri: str
    device: str = "auto"
    micro_batch: int = Field(default=8, ge=1)
    """Conversations per forward pass while training."""
    eval_batch: int = Field(default=32, ge=1)
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Least time between two checkpoints of a training; 0 writes one after every step."""
    progress: bool = True

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
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{quote(str(home / 'mlflow.db'))}"
        variables = {"device": "ILA_DEVICE", "micro_batch": "ILA_MICRO_BATCH"}
        variables["eval_batch"] = "ILA_EVAL_BATCH"
        variables["checkpoint_seconds"] = "ILA_CHECKPOINT_SECONDS"
        given = {field: os.environ[v] for field, v in variables.items() if os.environ.get(v)}
        try:
            return cls.model_validate({"home": home, "tracking_uri": uri, **given})
        except ValidationError as error:
            first = error.errors()[0]
            field = str(first["loc"][0])
            raise UserError(f"{variables[field]}={given[field]}: {first['msg']}") from error
