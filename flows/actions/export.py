"""`ila export`: write a ranking's selection as another trainer's configuration."""

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from ila_core.config import ArmConfig, FullMethod, LoraMethod, LoraSettings, RuntimeConfig
from ila_core.config.load import load_model_config, shipped
from ila_core.errors import UserError, listed, unknown_name
from ila_core.export.base import Export, Training
from ila_core.export.formats import export
from ila_core.resolve import Lock
from ila_core.search.ranking import Ranking
from ila_core.search.ranking_fit import RELATIONS, differing
from ila_core.selection.policies import POLICIES, Policy
from ila_core.selection.select import select
from ila_core.selection.selection import UNCOVERED, Selection

README = "README.txt"
WITH_TOKENIZER = ("peft", "trl")
"""Formats whose folder is one that a tokenizer is loaded from."""
TRAINERS = ("peft", "axolotl", "spectrum", "llamafactory", "swift", "unsloth")
"""Formats of trainers that make rows of conversations themselves."""
LEAST = 0.25
"""Fraction of each dataset's layers that `intersection` intersects, unless `--least` is given."""


@dataclass(frozen=True)
class Asked:
    """The selection that the options of a command describe."""

    policy: str
    source: str | None
    keep: float | None
    layers: int | None
    params: int | None
    least: float | None

    @property
    def options(self) -> str:
        """The options as text for a command line."""
        given = {field: value for field, value in vars(self).items() if value is not None}
        return " ".join(f"--{field} {value}" for field, value in given.items())


class Fractions(NamedTuple):
    """Stands in for the fields of `SearchConfig` that a policy reads."""

    keep: float
    least: float


def run_export(
    reference: str, asked: Asked, *, to: str, out: Path, method: str, lora: Mapping[str, float],
    base: str | None, relation: str | None, approximate: bool, as_json: bool,
) -> None:  # fmt: skip
    """Write the files for one trainer, all or none, and print the notes about them."""
    import typer

    from flows.plan.references import resolve
    from flows.views.printing import print_json

    found = resolve(reference)
    ranking = found.ranking
    settings = lora_settings(lora)
    training = training_of(method)
    selection = choose(ranking, asked, settings, training)
    if selection.rates is not None:
        raise UserError(
            f"policy {asked.policy!r} sets a learning rate per layer, which no trainer's list of "
            "layers can say: train it here (`ila run`), or export another policy"
        )
    chosen = _base(ranking, base, relation)
    wanted = Export(
        ranking,
        selection,
        training,
        settings,
        chosen.address,
        revision=chosen.revision,
        ranks=selection.lora_ranks,
        approximate=approximate,
    )
    exported = export(to, wanted)
    notes = [f"Ranking {found.said}, digest {found.digest[:12]}."]
    if not chosen.own and relation is not None:
        notes.append(
            f"It was made on {ranking.model.get('hub', ranking.base_model)}; {wanted.base} is "
            f"declared {relation} of that."
        )
    if wanted.revision is not None:
        notes.append(f"The base is {wanted.base} at commit {wanted.revision}.")
    if to in TRAINERS:
        notes.append(
            "The search learned the assistant's answers, each with its end token, and nothing else "
            "of a conversation. This trainer renders and masks by its own settings: see to it that "
            "they say the same. `--to trl` has a trainer that learns the very same tokens."
        )
    if said := selection.details.get(UNCOVERED):
        notes.append(f"Mind that {said}.")
    notes += exported.notes
    with tempfile.TemporaryDirectory() as folder:
        if to in WITH_TOKENIZER:
            notes.append(_save_tokenizer(chosen, ranking, Path(folder)))
        counted = f"--method {method} --r {settings.r}"
        check = f"ila verify {out} --ranking {found.pinned} {asked.options} {counted}"
        lines = (f"{to}: {wanted.title}.", *notes, f"Verify it, or what was trained: {check}")
        readme = "".join(f"{line}\n\n" for line in lines)
        written = _write(out, {**exported.files, README: readme}, Path(folder))
    if as_json:
        return print_json(
            {
                "to": to,
                "out": str(out),
                "files": written,
                "layers": list(exported.trains),
                "exact": exported.trains == selection.train,
                "notes": notes,
            }
        )
    said = "exactly" if exported.trains == selection.train else "approximated"
    typer.echo(f"{wanted.title}, as {to} has it, {said}")
    for name in written:
        typer.echo(f"  {out / name}")
    for note in notes:
        typer.echo(f"* {note}")
    typer.echo(f"verify it: {check}")


def choose(ranking: Ranking, asked: Asked, lora: LoraSettings, method: Training) -> Selection:
    """Apply the policy that was asked for to the ranking.

    Args:
        lora: settings that, with `method`, decide how `--params` and ranks by score count.

    Raises:
        UserError: when an option that the policy needs is missing, or it takes no such limit.
    """
    _check(ranking, asked)
    search = Fractions(ranking.keep, LEAST if asked.least is None else asked.least)
    arm = ArmConfig(
        name="export",
        policy=asked.policy,
        source=asked.source,
        keep=asked.keep,
        layers=asked.layers,
        parameters=asked.params,
    )
    # Nothing is trained here, so any schedule will do.
    trained = LoraMethod(**lora.model_dump(), lr=1, steps=1)
    settings = trained if method == "lora" else FullMethod(lr=1, steps=1)
    return select(arm, ranking, search, settings, None)


def _check(ranking: Ranking, asked: Asked) -> None:
    if asked.policy not in POLICIES:
        raise unknown_name("policy", asked.policy, POLICIES)
    policy, datasets = POLICIES[asked.policy], ranking.datasets
    if policy.needs_like:
        raise UserError(
            f"policy {asked.policy!r} is a control of another arm of a run; export one of "
            f"{', '.join(name for name, p in POLICIES.items() if not p.needs_like)}"
        )
    if policy.reads == "source":
        if asked.source is None:
            raise UserError(
                f"policy {asked.policy!r} needs --source, the dataset whose scores decide: "
                f"{', '.join(datasets)}"
            )
        if asked.source not in datasets:
            raise unknown_name("dataset (--source)", asked.source, datasets)
    elif asked.source is not None:
        scores = "every dataset's" if policy.reads == "all" else "no dataset's"
        raise UserError(
            f"policy {asked.policy!r} reads {scores} scores; leave --source {asked.source} out"
        )
    for option, value in (("--keep", asked.keep), ("--least", asked.least)):
        if value is not None and not 0 < value <= 1:
            raise UserError(f"{option} {value:g} is no fraction: give one above 0, at most 1")
    _check_limit(len(ranking.layers), asked, policy)


def _check_limit(layers: int, asked: Asked, policy: Policy) -> None:
    given = {"keep": asked.keep, "layers": asked.layers, "parameters": asked.params}
    limits = {field: value for field, value in given.items() if value is not None}
    said = {f: f"--{'params' if f == 'parameters' else f} {v:g}" for f, v in limits.items()}
    if len(limits) > 1:
        raise UserError(f"{' and '.join(said.values())}: give one of them")
    for field in limits:
        if field not in policy.limits:
            rule = "it is fixed"
            if policy.settings == ("least",):
                rule = "its size is an outcome, by --least"
            elif policy.limits:
                rule = "give --params"
            raise UserError(
                f"policy {asked.policy!r} takes no {said[field]}: {rule}; leave that out"
            )
    if policy.limits and "keep" not in policy.limits and not limits:
        raise UserError(f"policy {asked.policy!r} needs --params, the most that may train")
    if asked.least is not None and "least" not in policy.settings:
        raise UserError(f"policy {asked.policy!r} takes no --least; leave that out")
    if asked.layers is not None and not 0 < asked.layers <= layers:
        raise UserError(f"--layers {asked.layers}: the ranking has {layers} layers; give 1 to that")
    if asked.params is not None and asked.params < 1:
        raise UserError(f"--params {asked.params}: give the most parameters that may train")


def lora_settings(given: Mapping[str, float]) -> LoraSettings:
    """Build LoRA's settings from `--r`, `--alpha` and `--dropout`."""
    try:
        return LoraSettings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        raise UserError(f"--{field} {given[field]:g}: {first['msg']}") from error


def training_of(given: str) -> Training:
    """Check `--method`."""
    if given == "lora":
        return "lora"
    if given == "full":
        return "full"
    raise unknown_name("method (--method)", given, ("lora", "full"))


@dataclass(frozen=True)
class BaseOfExport:
    """The base model that the files name."""

    address: str
    """Hub id or folder."""
    revision: str | None
    own: bool
    """Whether it is the model that was searched."""


def _own(ranking: Ranking, given: str | None) -> BaseOfExport | None:
    """Return the model that was searched, if `given` is that or is left out."""
    hub = ranking.model.get("hub")
    if hub is not None and given in (None, ranking.base_model, hub):
        return BaseOfExport(hub, ranking.model.get("revision"), own=True)
    digest = ranking.model.get("files", "")
    if given is not None and (folder := Path(given).expanduser()).is_dir():
        from ila_core.models.files import model_files_digest

        same = model_files_digest(folder) == digest
        return BaseOfExport(str(folder.absolute()), None, own=True) if same else None
    if given in (None, ranking.base_model):
        found = Lock(RuntimeConfig.from_env().home, online=False).folder_of(digest)
        if found is not None:
            return BaseOfExport(str(found), None, own=True)
        raise UserError(
            f"ranking {ranking.key} was made on a local folder, {ranking.base_model}, and no run "
            "on this machine has seen that: give --base FOLDER, or the hub id of a model with "
            f"--relation {', '.join(RELATIONS)}"
        )
    return None


def _base(ranking: Ranking, given: str | None, relation: str | None) -> BaseOfExport:
    """Return the base model for the files.

    Raises:
        UserError: when `given` is a known model with other layers than the ranking's, or not the
            model that was searched and no `relation` is declared; or when nobody knows where that
            model lies.
    """
    if relation is not None and relation not in RELATIONS:
        raise unknown_name("relation", relation, RELATIONS)
    if (own := _own(ranking, given)) is not None:
        return own
    address, revision = str(given), None
    configs = [load_model_config(name) for name in shipped("models")]
    known = next((c for c in configs if given in (c.name, c.source)), None)
    if known is not None:
        from ila_core.models.layers import find_layers

        if names := differing(ranking, find_layers(known)):
            raise UserError(
                f"--base {given} has other layers than ranking {ranking.key} of "
                f"{ranking.base_model}: {listed(names)}. Give a ranking of its own architecture"
            )
        address, revision = known.source, known.revision
    if Path(address).expanduser().is_dir():
        address = str(Path(address).expanduser().absolute())
    if relation is None:
        raise UserError(
            f"--base {given} is not the model that the ranking was made on, "
            f"{ranking.model.get('hub', ranking.base_model)}: say how it stems from that, "
            f"--relation {', '.join(RELATIONS)}"
        )
    return BaseOfExport(address, revision, own=False)


def _save_tokenizer(base: BaseOfExport, ranking: Ranking, folder: Path) -> str:
    """Write the base's tokenizer, with the search's chat template, and say so or why not."""
    from ila_core import hub
    from ila_core.models.architecture import read_tokenizer
    from ila_core.models.files import TOKENIZER_FILES
    from ila_core.models.loading import save_tokenizer

    told = ranking.rendering
    template, variables = (told.template, told.template_variables) if told else (None, {})
    try:
        files = Path(base.address)
        if not files.is_dir():
            wanted = ("config.json", *TOKENIZER_FILES)
            files = hub.fetch(base.address, wanted, base.revision, kind="model")
        save_tokenizer(read_tokenizer(files, base.address), template, variables, folder)
    except UserError as error:
        return f"The tokenizer does not lie here, because it could not be read: {error}."
    return "The base's tokenizer lies here too, with the chat template of the search."


def _write(out: Path, files: Mapping[str, str], more: Path) -> list[str]:
    """Write all files, and those that lie in `more`, or none; refuse a folder that is not empty."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"--out {out} is there already, and not empty: give a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    arriving = out.parent / f".{out.name}.{os.getpid()}"
    try:
        for name, text in files.items():
            path = arriving / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        shutil.copytree(more, arriving, dirs_exist_ok=True)
        names = [p.relative_to(arriving).as_posix() for p in arriving.rglob("*") if p.is_file()]
        arriving.replace(out)
    finally:
        shutil.rmtree(arriving, ignore_errors=True)
    return sorted(names)
