"""`ila merge`: write a fine-tuned model as one transformers model, with its adapter merged."""

import json
import shutil
import tempfile
from pathlib import Path

import typer

from flows.plan.finished import find_finetuning
from flows.views.printing import print_json
from ila_core.config import RuntimeConfig
from ila_core.config.load import load_profile
from ila_core.errors import UserError
from ila_core.keys import canonical
from ila_core.models.loading import load_tokenizer, save_tokenizer
from ila_core.resolve import Lock, Unknown
from ila_core.train.merge import merged, worst_difference
from tasks.cache.payloads import fetch
from tasks.steps.base import Base


def run_merge(given: str, reference: str, *, out: Path, as_json: bool) -> None:
    """Write the profile's base model, merged with the fine-tuning `reference`, to `out`."""
    if out.exists():
        raise UserError(f"--out {out} exists; give a folder that does not")

    run = find_finetuning(reference)
    payload = fetch(run)
    method = json.loads((payload / "finetune.json").read_bytes())["method"]
    runtime = RuntimeConfig.from_env()
    base = Base.resolve(load_profile(given).model, Lock(runtime.home, online=True))
    assert not isinstance(base.files, Unknown), "looked up online"
    theirs = {n: v for n, v in run.params.items() if n.startswith("model.files.")}
    if theirs != {f"model.files.{n}": canonical(v) for n, v in dict(base.files).items()}:
        raise UserError(
            f"{reference} was trained on other weights than those of {base.config.name}; name the "
            "profile that it was trained with"
        )
    # Never the 4-bit base: its weights could not take the update in.
    model, adapted = merged(base.load(runtime), method, payload)
    # Full fine-tuning has no adapter to be apart from.
    apart = None if method == "full" else worst_difference(model, adapted)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as folder:
        made = Path(folder) / "model"
        model.save_pretrained(made)
        told = base.config.template, base.config.template_variables
        save_tokenizer(load_tokenizer(base.pinned), *told, made)
        shutil.move(made, out)
    note = None
    if method == "qlora":
        note = "it was trained on a base in 4 bits; merged into the plain one its answers differ"
    if as_json:
        return print_json({"folder": str(out), "method": method, "apart": apart, "note": note})
    said = "" if apart is None else f", logits at most {apart:.1e} from those of the adapter"
    typer.echo(f"{out}: {method}{said}")
    if note:
        typer.echo(note)
