"""TRL: the selection, and a `train.py` with `SFTTrainer`, or `Trainer` for an adapted `lm_head`.

`train.py` learns the tokens that the search learned, because its rows are made by the same code:
the modules of `ila_core` that read rows and mask them go with it, in `ila_rows/`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from ila_core.export.base import Export, Exported, Matches, fields_of, head_note
from ila_core.export.parameter_rule import FSDP, FULL, outside
from ila_core.export.peft_rule import adapted, lora_config
from ila_core.models.layers import Layer
from ila_core.search.ranking import Rendering

ADAPTER, FROZEN = "adapter_config.json", "frozen.json"
ROWS = "ila_rows"
"""The package beside `train.py` that makes its rows."""
_OF_ROWS = (
    "export/formats/scripts/common.py",
    "errors.py",
    *(
        f"data/{name}.py"
        for name in (
            *("conversation", "conversations", "json_files", "rows", "shapes"),
            *("template", "template_probes", "chat_template", "loss_mask", "token_rows"),
        )
    ),
)
_SAME = (
    "It learns the tokens that the search learned: the same rows, template and mask (ila_rows/, "
    "rendering.json), of all rows of --data, the held-out ones too"
)
_UNKNOWN = (
    "The ranking does not say which chat template and length the search had: give --template and "
    "--max-length, or the tokenizer's own is taken and nothing is cut"
)


class Trl:
    def export(self, wanted: Export) -> Exported:
        heads = [x.name for x in wanted.ranking.layers if x.block is None]
        refused = [name for name in heads if name in wanted.selection.train]
        known = wanted.ranking.rendering is not None
        usage = (
            "python train.py --data conversations.jsonl --out trained. Tried with TRL 1.16, "
            f"transformers 5 and PEFT 0.21. {_SAME}.",
            *(() if known else (f"{_UNKNOWN}.",)),
        )
        if wanted.method == "full":
            fields = {
                "base": wanted.base,
                "revision": wanted.revision,
                "frozen": list(wanted.selection.frozen),
            }
            file = {FROZEN: _text(fields)}
            said = (*usage, f"The base is loaded in float32 (--dtype). {FULL}", FSDP)
            return Exported(file | _script("sft_trainer", wanted), wanted.selection.train, said)
        file = {ADAPTER: _text(lora_config(wanted))}
        if not refused:
            return Exported(file | _script("sft_trainer", wanted), wanted.selection.train, usage)
        notes = (
            *usage,
            f"TRL's SFTTrainer refuses every adapter on {', '.join(refused)}, which this selection "
            f"trains: train.py uses transformers.Trainer instead. For SFTTrainer, take "
            f"{', '.join(refused)} out of target_modules; `ila verify` will then name it.",
            *head_note(wanted),
        )
        return Exported(file | _script("plain_trainer", wanted), wanted.selection.train, notes)

    def reads(self, name: str, text: str) -> bool:
        # Its adapter_config.json is PEFT's.
        return (
            {"base", "frozen"}
            <= set(fields_of(name, text, ".json"))
            <= {"base", "revision", "frozen"}
        )

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


def _text(fields: Mapping[str, object]) -> str:
    return json.dumps(fields, indent=1) + "\n"


def _script(name: str, wanted: Export) -> dict[str, str]:
    """`train.py` with all that it imports, and how the search wrote conversations."""
    rendering = wanted.ranking.rendering or Rendering(
        template=None, template_variables={}, max_length=None
    )
    files = {
        "train.py": _copied(f"export/formats/scripts/{name}.py"),
        "rendering.json": _text(rendering.model_dump()),
        f"{ROWS}/__init__.py": '"""How ILA makes rows of conversations: copied from it."""\n',
    }
    for module in _OF_ROWS:
        files[f"{ROWS}/{Path(module).name}"] = _copied(module)
    return files


def _copied(module: str) -> str:
    """A module of `ila_core` whose imports are of `ila_rows`, where it is to lie."""
    text = (Path(__file__).parents[2] / module).read_text(encoding="ascii")
    return re.sub(r"\bila_core(\.data|\.export\.formats\.scripts)?\b", ROWS, text)
