"""`ila export` and `ila verify` as commands: their arguments and options."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import (
    DeclaredRelation,
    Json,
    KeepOfSelection,
    Layers,
    Least,
    Method,
    Params,
    Policy,
    PolicyOption,
    Rank,
    Reference,
    Source,
)


def export(
    reference: Reference,
    to: Annotated[
        str,
        typer.Option(
            help="peft, axolotl, spectrum, llamafactory, swift, trl, unsloth, json or csv."
        ),
    ],
    out: Annotated[Path, typer.Option(help="A new folder.")],
    policy: Annotated[str, PolicyOption] = "ila",
    source: Source = None,
    keep: KeepOfSelection = None,
    layers: Layers = None,
    params: Params = None,
    least: Least = None,
    method: Method = "lora",
    r: Rank = 16,
    alpha: Annotated[float, typer.Option(help="LoRA's alpha.")] = 32,
    dropout: Annotated[float, typer.Option(help="LoRA's dropout.")] = 0.0,
    base: Annotated[str | None, typer.Option(help="Hub id of the base model.")] = None,
    relation: DeclaredRelation = None,
    approximate: Annotated[
        bool, typer.Option("--approximate", help="Take the nearest that the trainer can express.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a ranking's selection as another trainer's configuration."""
    from flows.actions.export import Asked, run_export

    run_export(
        reference,
        Asked(policy, source, keep, layers, params, least),
        to=to,
        out=out,
        method=method,
        lora={"r": r, "alpha": alpha, "dropout": dropout},
        base=base,
        relation=relation,
        approximate=approximate,
        as_json=as_json,
    )


def verify(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="A profile (newest run), key:<12 hex>, an adapter's folder or a configuration.",
        ),
    ],
    ranking: Annotated[
        str | None, typer.Option(metavar="REF", help="Ranking to check an adapter or file against.")
    ] = None,
    policy: Policy = None,
    source: Source = None,
    keep: KeepOfSelection = None,
    layers: Layers = None,
    params: Params = None,
    least: Least = None,
    method: Method = "lora",
    r: Rank = 16,
    as_json: Json = False,
) -> None:
    """Say whether a selection was applied: what matched, missed, trains; exits with 3 if not."""
    from flows.actions.verify import asked_for, run_verify

    asked = asked_for(policy, source, keep, layers, params, least)
    run_verify(target, ranking, asked, method=method, r=r, as_json=as_json)
