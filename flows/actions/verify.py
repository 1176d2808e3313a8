"""`ila verify`: check that a run, a trained adapter or a configuration applies a selection."""

import re
import sys
from collections.abc import Sequence
from itertools import islice, product
from pathlib import Path

from flows.actions.export import Asked, choose, lora_settings, training_of
from flows.plan.finished import find_report
from flows.plan.references import resolve
from ila_core.config import RuntimeConfig
from ila_core.errors import CheckError, UserError
from ila_core.export.formats import EXPORTERS, recognise
from ila_core.export.trained_adapter import WEIGHTS, read_adapter
from ila_core.export.verify import Contract, check_configuration
from ila_core.selection.selection import UNCOVERED, Selection
from tasks.cache.lookup import Lookup, open_lookup
from tasks.cache.payloads import fetch, read_json
from tasks.cache.step_run import StepRun, upstream_digest
from tasks.steps.finetune.selection import load as load_selection

# Which of several results of one input a step was made from is found by trying.
MOST_COMBINATIONS = 4096


def run_verify(
    target: str, ranking: str | None, asked: Asked | None, *, method: str, r: int, as_json: bool
) -> None:
    """Check the selection contract and show the result; exit with 3 if it is breached."""
    path = Path(target)
    described = ranking is not None or asked is not None
    a_profile = path.suffix in (".yaml", ".yml") and not described
    if target.startswith("key:") or a_profile or not path.exists():
        if described:
            raise UserError(
                f"{target} is no file or folder here. A run is verified against its own selection: "
                "leave --ranking and --policy out"
            )
        contracts = _of_run(target)
    elif ranking is None or asked is None:
        raise UserError(
            f"{target} does not say which layers it should train: give --ranking REF and --policy, "
            "with what the policy needs (--source, --keep), as for `ila export`"
        )
    else:
        contracts = [_of_path(path, ranking, asked, method, r)]
    _show(contracts, as_json=as_json)
    if any(contract.breaches for contract in contracts):
        sys.exit(3)


def asked_for(
    policy: str | None, source: str | None, keep: float | None, layers: int | None,
    params: int | None, least: float | None,
) -> Asked | None:  # fmt: skip
    """Return the selection that the options describe, or `None` without a policy."""
    if policy is not None:
        return Asked(policy, source, keep, layers, params, least)
    if (source, keep, layers, params, least) != (None,) * 5:
        raise UserError(
            "--source, --keep, --layers, --params and --least belong to a --policy: give one"
        )
    return None


def _of_path(path: Path, reference: str, asked: Asked, method: str, r: int) -> Contract:
    ranking = resolve(reference).ranking
    # As for `export`: what a limit in parameters, and ranks by score, are counted by.
    lora = lora_settings({"r": r, "alpha": r, "dropout": 0})
    selection = choose(ranking, asked, lora, training_of(method))
    train, ranks = selection.train, selection.lora_ranks
    if (path / WEIGHTS).exists():
        adapter = read_adapter(path, [layer.name for layer in ranking.layers])
        trained = adapter.check(str(path), ranking.layers, train, ranks)
        return _with_uncovered(trained, selection)
    consumer, text = recognise(path)
    found = EXPORTERS[consumer].selected(text, ranking.layers, ())
    contract = check_configuration(f"{path} ({consumer})", found, ranking.layers, train, ranks)
    contract = _with_uncovered(contract, selection)
    if (path / "adapter_model.bin").exists():
        only = f"only its configuration was read: save the weights as {WEIGHTS}"
        contract = contract.model_copy(update={"notes": (*contract.notes, only)})
    return contract


def _of_run(target: str) -> list[Contract]:
    """Check every arm of a profile's newest finished run, or the fine-tuning with a key."""
    lookup = open_lookup(RuntimeConfig.from_env())
    if match := re.fullmatch(r"key:([0-9a-f]{12})", target):
        runs = lookup.finished(match[1])
        if not runs:
            raise UserError(f"no finished step has {target}; `ila plan PROFILE` shows keys")
        if (kind := runs[-1].tags["ila.step"]) not in ("finetune", "report"):
            raise UserError(f"{target} is a {kind}: give the key of a finetune step or of a report")
        if kind == "finetune":
            return [_of_step(target, runs[-1], lookup)]
        report = runs[-1]
    else:
        report = find_report(target)
    contracts = []
    for name, key in report.params.items():
        if name.startswith("input.finetune "):
            label = name.removeprefix("input.finetune ")
            runs = lookup.finished(key)
            if not runs:
                raise CheckError(f"{label}, key:{key}, has been withdrawn since; run it again")
            contracts.append(_of_step(label, runs[-1], lookup))
    return contracts


def _of_step(label: str, run: StepRun, lookup: Lookup) -> Contract:
    """Check the records of a training, and its adapter's weights."""
    payload = fetch(run)
    seen = read_json(payload / "finetune.json")["verification"]
    selection = load_selection(fetch(_inputs(run, lookup)["selection"]))
    recorded = Contract(
        target=label,
        requested=len(selection.train),
        matched=seen["matched"],
        trainable_parameters=seen["trainable_parameters"],
        expected_parameters=seen["expected_parameters"],
        gradient_seen=seen["gradient_seen"],
        frozen_tensors=seen["frozen_tensors"],
        frozen_identical=seen["frozen_identical"],
    )
    if not (payload / "adapter").is_dir():
        unread = recorded.model_copy(update={"notes": ("what it trained is not read again",)})
        return _with_uncovered(unread, selection)
    names = [*selection.train, *selection.frozen]
    adapter = read_adapter(payload / "adapter", names)
    now = adapter.check(label, adapter.layers_called(names), selection.train)
    kept = now.model_dump(include={"matched", "missed", "unrequested", "unmatched", "odd", "notes"})
    return _with_uncovered(recorded.model_copy(update=kept), selection)


def _with_uncovered(contract: Contract, selection: Selection) -> Contract:
    """The contract with a note of what of the model no selection trains."""
    said = selection.details.get(UNCOVERED)
    notes = (*contract.notes, str(said)) if said else contract.notes
    return contract.model_copy(update={"notes": notes})


def _inputs(run: StepRun, lookup: Lookup) -> dict[str, StepRun]:
    """Find the runs of a step's inputs."""
    names = [name for name in run.params if name.startswith("input.")]
    candidates = [lookup.finished(run.params[name]) for name in names]
    labels = [name.removeprefix("input.") for name in names]
    for chosen in islice(product(*candidates), MOST_COMBINATIONS):
        inputs = dict(zip(labels, chosen, strict=True))
        if upstream_digest(inputs) == run.upstream:
            return inputs
    raise UserError(
        f"what {run.key} was made from is no longer there: compute it anew, with --refresh "
        f"key:{run.key} --reason lost"
    )


def _show(contracts: Sequence[Contract], *, as_json: bool) -> None:
    import typer

    from flows.views.printing import print_json, print_table

    if as_json:
        return print_json(
            [
                c.model_dump(mode="json") | {"holds": not c.breaches, "breaches": c.breaches}
                for c in contracts
            ]
        )
    header = ["target", "requested", "matched", "missed", "not requested", "twice", "no layer",
              "trainable", "expected", "gradients", "frozen as before", ""]  # fmt: skip
    print_table(header, [_row(contract) for contract in contracts])
    for contract in contracts:
        for note in contract.notes:
            typer.echo(f"{contract.target}: {note}")
        for breach in contract.breaches:
            typer.echo(f"{contract.target}: {breach}")


def _row(c: Contract) -> list[str]:
    watched = c.gradient_seen is not None
    counts = [c.requested, c.matched, *map(len, (c.missed, c.unrequested, c.twice, c.unmatched))]
    return [
        c.target,
        *map(str, counts),
        f"{c.trainable_parameters:,}",
        f"{c.expected_parameters:,}",
        f"{c.gradient_seen} of {c.requested}" if watched else "-",
        f"{c.frozen_identical} of {c.frozen_tensors}" if watched else "-",
        "does not hold" if c.breaches else "holds",
    ]
