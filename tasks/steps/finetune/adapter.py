"""Copy an adapter that was trained elsewhere into the cache, under a hash of its content."""

import shutil
from pathlib import Path

from ila_core.config import AdapterSettings
from ila_core.data.json_files import read_object
from ila_core.errors import UserError, listed, unknown_name
from ila_core.export.trained_adapter import CONFIG, WEIGHTS, read_adapter
from tasks.cache.step import Context, Step
from tasks.steps.base import Base

VERSION = 1
_METHODS = {"LORA": "lora", "ADALORA": "adalora"}


def adopt(base: Base, name: str, adapter: AdapterSettings) -> Step:
    """Describe the import of an adapter as `name`.

    Raises:
        UserError: when there is no adapter, its PEFT method is unknown to ILA, or its configuration
            names another base model.
    """
    folder, path = adapter.path, Path(adapter.path)
    files = base.lock.files(folder, (CONFIG, WEIGHTS))
    for needed in (CONFIG, WEIGHTS):
        if not (path / needed).is_file():
            raise UserError(f"{folder} is no PEFT adapter: it has no {needed}")
    kind, trained_on = _read(path / CONFIG)
    if kind not in _METHODS:
        raise unknown_name(f"kind of adapter ({folder})", str(kind), _METHODS)
    if trained_on and Path(trained_on).name not in _names(base):
        raise UserError(
            f"{folder} is an adapter of another base: its {CONFIG} says {trained_on!r}, and this "
            f"is {base.config.name!r} ({base.address}). If the two are one model, correct that "
            "entry"
        )
    method = adapter.method or _METHODS[kind]
    return Step(
        "adapter",
        label=f"adapter {name}",
        version=VERSION,
        identity=base.identify_training(files=files, method=method),
        given={
            "base": base,
            "folder": path,
            "method": method,
            "names": {"arm": name, "seed": None},
        },
    )


def _read(config: Path) -> tuple[str | None, str | None]:
    """Return PEFT's type of the adapter, and the base model that its configuration names."""
    found = read_object(config)
    return found.get("peft_type"), found.get("base_model_name_or_path")


def _names(base: Base) -> set[str]:
    """Return the base model's names in adapters: its name, and the last part of its source."""
    return {base.config.name, Path(base.address).name, Path(base.config.source).name}


def compute(step: Step, inputs: dict[str, Path], out: Path, context: Context) -> None:
    base: Base = step.given["base"]
    folder: Path = step.given["folder"]
    shapes = {layer.name: layer.shape for layer in base.layers}
    parts = read_adapter(folder, list(shapes)).parts
    strange = [p.name for p in parts.values() if not p.fits(shapes.get(p.name))]
    if strange:
        raise UserError(
            f"{folder} is an adapter of another base than {base.config.name}: it has no layer of "
            f"that shape called {listed(strange)}"
        )
    for name in (CONFIG, WEIGHTS):
        (out / "adapter").mkdir(exist_ok=True)
        shutil.copyfile(folder / name, out / "adapter" / name)
