"""PEFT: `adapter_config.json`, for `LoraConfig.from_pretrained(DIR)`."""

import json
from collections.abc import Sequence

from ila_core.export.base import Export, Exported, Matches, head_note, refuse_full
from ila_core.export.peft_rule import adapted, lora_config
from ila_core.models.layers import Layer

FILE = "adapter_config.json"


class Peft:
    def export(self, wanted: Export) -> Exported:
        refuse_full(wanted, "PEFT", "it trains adapters")
        text = json.dumps(lora_config(wanted), indent=1) + "\n"
        note = (
            "config = LoraConfig.from_pretrained(DIR); model = get_peft_model(model, config). PEFT "
            "does not say when a name matches nothing: `ila verify` does."
        )
        return Exported({FILE: text}, wanted.selection.train, (note, *head_note(wanted)))

    def reads(self, name: str, text: str) -> bool:
        return name.endswith(".json") and '"peft_type"' in text

    def selected(self, text: str, layers: Sequence[Layer], parameters: Sequence[str]) -> Matches:
        return adapted(json.loads(text), layers)
