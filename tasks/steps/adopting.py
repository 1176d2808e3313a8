"""An adapter that was trained elsewhere, taken into the cache by its content."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from ila_core.errors import UserError, listed, unknown_name
from ila_core.trained_adapter import CONFIG, WEIGHTS, read_adapter
from tasks.step import Context, Step
from tasks.steps.base import Base

VERSION = 1
_METHODS = {"LORA": "lora", "ADALORA": "adalora"}


def adopt(base: Base, name: str, folder: str) -> Step:
    """The adapter in `folder`, called `name`.

    Raises:
        UserError: there is none, or PEFT's method is not one of ours.
    """
    path = Path(folder).expanduser()
    files = base.lock.files(folder, (CONFIG, WEIGHTS))
    for needed in (CONFIG, WEIGHTS):
        if not (path / needed).is_file():
            raise UserError(f"{folder} is no PEFT adapter: it has no {needed}")
    kind = json.loads((path / CONFIG).read_bytes()).get("peft_type")
    if kind not in _METHODS:
        raise unknown_name(f"kind of adapter ({folder})", str(kind), _METHODS)
    return Step(
        "adapter",
        label=f"adapter {name}",
        version=VERSION,
        identity=base.identify_training(files=files),
        given={
            "base": base,
            "folder": path,
            "method": _METHODS[kind],
            "names": {"arm": name, "seed": None},
        },
    )


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    base: Base = step.given["base"]
    folder: Path = step.given["folder"]
    shapes = {layer.name: layer.shape for layer in base.layers}
    parts = read_adapter(folder).parts
    strange = [p.name for p in parts.values() if shapes.get(p.name) != p.shape]
    if strange:
        raise UserError(
            f"{folder} is an adapter of another base than {base.config.name}: it has no layer of "
            f"that shape called {listed(strange)}"
        )
    for name in (CONFIG, WEIGHTS):
        (out / "adapter").mkdir(exist_ok=True)
        shutil.copyfile(folder / name, out / "adapter" / name)
