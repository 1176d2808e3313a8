"""Arguments and options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ila_core.errors import UserError

if TYPE_CHECKING:
    from ila_core.config.load import Given

ProfileOrModel = Annotated[
    str | None,
    typer.Argument(
        metavar="[PROFILE]",
        help="A shipped profile's name, or a path to a .yaml file; or give --model and --data.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="A hub id, a folder, or a name that ILA knows."),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="DATA",
        help="ID[:CONFIG[:SPLIT]] of the hub, a file, a folder, or a name; repeatable.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Change one field of the profile; repeatable."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Reference = Annotated[
    str,
    typer.Argument(
        metavar="REF", help="name@alias, name/version, key:<12 hex>, or a path to a .json file."
    ),
]
DeclaredRelation = Annotated[
    str | None,
    typer.Option(
        "--relation",
        help="How the model derives from the ranking's if their weights differ: instruct, mirror, "
        "quantised or further_pretrained.",
    ),
]
PolicyOption = typer.Option("--policy", help="Which layers train: `ila`, `intersection`, `all` ...")
Policy = Annotated[str | None, PolicyOption]
Source = Annotated[
    str | None, typer.Option(help="Dataset whose scores decide, for policies that read one.")
]
KeepOfSelection = Annotated[
    float | None,
    typer.Option("--keep", help="Fraction of layers that train; by default the ranking's own."),
]
Layers = Annotated[int | None, typer.Option(help="Number of layers that train, for --keep.")]
Params = Annotated[int | None, typer.Option(help="Most parameters that train, for --keep.")]
Method = Annotated[str, typer.Option(help="lora or full.")]
Rank = Annotated[int, typer.Option("--r", help="LoRA's rank.")]
Least = Annotated[
    float | None,
    typer.Option(help="`intersection`: fraction of least important layers; by default 0.25."),
]
RefreshOption = Annotated[
    list[str] | None,
    typer.Option(
        "--refresh",
        metavar="STEP",
        help="Compute again: a kind (stage1), a label ('stage1 lima seed 0') or key:<12 hex>.",
    ),
]
Reason = Annotated[
    str | None,
    typer.Option(metavar="WHY", help="For --refresh: recorded with the replaced result."),
]


def profile_of(profile: str | None, model: str | None, data: list[str] | None) -> Given:
    """Return which profile the options mean.

    Raises:
        UserError: both ways at once, or neither.
    """
    if profile is not None:
        if model or data:
            raise UserError(
                f"give the profile {profile}, or --model and --data, not both; --set model=... "
                "changes a profile's model, and --set datasets=[...] its datasets"
            )
        return profile
    if model is None:
        raise UserError("give a profile, such as `demo` or mine.yaml, or --model and --data")
    from ila_core.config.load import OneLine

    return OneLine(model, tuple(data or ()))
