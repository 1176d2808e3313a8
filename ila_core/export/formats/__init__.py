"""The exporters: one file for each trainer's format, one line for each in `EXPORTERS`.

Every export is read back by its trainer's rule before any file is written:

    export("peft", Export(...)).files  # {"adapter_config.json": ...}
"""

from pathlib import Path

from yaml import YAMLError

from ila_core.errors import CheckError, UserError, listed, unknown_name
from ila_core.export.base import Export, Exported, Exporter
from ila_core.export.formats.axolotl import Axolotl
from ila_core.export.formats.csv import Csv
from ila_core.export.formats.json import Json
from ila_core.export.formats.llamafactory import LlamaFactory
from ila_core.export.formats.peft import Peft
from ila_core.export.formats.spectrum import Spectrum
from ila_core.export.formats.swift import Swift
from ila_core.export.formats.trl import Trl
from ila_core.export.formats.unsloth import Unsloth
from ila_core.train.experts import check_experts

EXPORTERS: dict[str, Exporter] = {
    "peft": Peft(),
    "axolotl": Axolotl(),
    "spectrum": Spectrum(),
    "llamafactory": LlamaFactory(),
    "swift": Swift(),
    "trl": Trl(),
    "unsloth": Unsloth(),
    "json": Json(),
    "csv": Csv(),
}


NAMES_PARAMETERS = ("peft", "trl", "json", "csv")
"""The formats that can name a parameter of a module."""


def export(to: str, wanted: Export) -> Exported:
    """Build the files for one trainer, and check them by that trainer's rule.

    Raises:
        UserError: when the trainer is unknown or cannot express the selection.
        CheckError: when the files would select other layers.
    """
    if to not in EXPORTERS:
        raise unknown_name("consumer (--to)", to, EXPORTERS)
    _refuse_experts(to, wanted)
    exported = EXPORTERS[to].export(wanted)
    layers = wanted.ranking.layers
    found = EXPORTERS[to].selected(next(iter(exported.files.values())), layers, ())
    wrong = set(found.layers) ^ set(exported.trains) | set(found.odd)
    if wrong:
        raise CheckError(
            f"{to}'s own rule would not apply this selection: it differs in "
            f"{listed(sorted(wrong))}. That is a bug of this export; nothing was written"
        )
    return exported


def _refuse_experts(to: str, wanted: Export) -> None:
    """Refuse tensors of experts where a trainer's list names modules, and dropout on them.

    LoRA of linear layers alone leaves them as they are; full fine-tuning has to freeze them.
    """
    concerned = wanted.ranking.layers if wanted.method == "full" else wanted.chosen
    names = [layer.name for layer in concerned if layer.holds_experts]
    if names and to not in NAMES_PARAMETERS:
        raise UserError(
            f"{to} names modules, and {listed(names, most=2)} are parameters of modules (experts "
            f"in one tensor): give --to {' or '.join(NAMES_PARAMETERS)}"
        )
    if wanted.method == "lora":
        check_experts(wanted.chosen, "lora", wanted.lora, "lora")


def recognise(path: Path) -> tuple[str, str]:
    """Return the name of the format of a configuration, a file or a folder, and its text.

    Raises:
        UserError: when no exporter reads it.
    """
    files = sorted(p for p in path.iterdir() if p.is_file()) if path.is_dir() else [path]
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        for name, exporter in EXPORTERS.items():
            if _reads(exporter, file, text):
                return name, text
    raise UserError(
        f"{path} holds no configuration that says what trains, as {', '.join(EXPORTERS)} have it; "
        "give such a file, a folder with adapter_config.json, key:<12 hex> of a finetune step, or "
        "a profile that has run"
    )


def _reads(exporter: Exporter, file: Path, text: str) -> bool:
    try:
        return exporter.reads(file.name, text)
    except (ValueError, YAMLError):  # neither JSON nor YAML, so nobody's configuration
        return False
