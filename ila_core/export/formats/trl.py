"""TRL: the selection, and a `train.py` with `SFTTrainer`, or `Trainer` for an adapted `lm_head`."""

import json
from collections.abc import Sequence
from pathlib import Path

from ila_core.export.base import Export, Exported, Matches, fields_of, head_note
from ila_core.export.parameter_rule import FSDP, FULL, outside
from ila_core.export.peft_rule import adapted, lora_config
from ila_core.models.layers import Layer

ADAPTER, FROZEN = "adapter_config.json", "frozen.json"


class Trl:
    def export(self, wanted: Export) -> Exported:
        heads = [x.name for x in wanted.ranking.layers if x.block is None]
        refused = [name for name in heads if name in wanted.selection.train]
        usage = "python train.py --data conversations.jsonl --out trained"
        if wanted.method == "full":
            file = {FROZEN: _text({"base": wanted.base, "frozen": list(wanted.selection.frozen)})}
            said = (f"{usage}. {FULL}", FSDP)
            return Exported(file | _script("sft_trainer"), wanted.selection.train, said)
        file = {ADAPTER: _text(lora_config(wanted))}
        if not refused:
            return Exported(file | _script("sft_trainer"), wanted.selection.train, (usage,))
        notes = (
            f"{usage}. TRL's SFTTrainer refuses every adapter on {', '.join(refused)}, which this "
            "selection trains: train.py uses transformers.Trainer instead, and learns "
            "the assistant's tokens alone, where SFTTrainer learns all by default. For that, take "
            f"{', '.join(refused)} out of target_modules; `ila verify` will then name it.",
            *head_note(wanted),
        )
        return Exported(file | _script("plain_trainer"), wanted.selection.train, notes)

    def reads(self, name: str, text: str) -> bool:
        # Its adapter_config.json is PEFT's.
        return set(fields_of(name, text, ".json")) == {"base", "frozen"}

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        fields = json.loads(text)
        if "frozen" not in fields:
            return adapted(fields, layers)
        frozen = set(fields["frozen"])
        return Matches(
            "full",
            {x.name: ("not in frozen",) for x in layers if x.name not in frozen},
            tuple(sorted(frozen - {x.name for x in layers})),
            outside=outside(layers, parameters),
        )


def _text(fields: dict[str, object]) -> str:
    return json.dumps(fields, indent=1) + "\n"


def _script(name: str) -> dict[str, str]:
    path = Path(__file__).parent / "scripts" / f"{name}.py"
    return {"train.py": path.read_text(encoding="ascii")}
