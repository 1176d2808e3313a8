"""Does a ranking serve a model? Layers must match, and weights too, or be declared related."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import get_args

from ila_core.config import ModelConfig, Relation
from ila_core.errors import UserError, listed
from ila_core.models.layers import Layer
from ila_core.resolve import Unknown
from ila_core.search.ranking import Ranking
from ila_core.search.ranking_reference import ResolvedRanking

RELATIONS: tuple[Relation, ...] = get_args(Relation)


def fit(
    found: ResolvedRanking,
    config: ModelConfig,
    files: Mapping[str, str] | Unknown,
    layers: Sequence[Layer],
) -> ResolvedRanking:
    """Return the ranking, with the declared relation where its weights are not the model's.

    Args:
        found: what fine-tuning is to read.
        config: the model's profile, which declares relations.
        files: what identifies its weights.
        layers: the model's.

    Raises:
        UserError: other layers, or other weights and no relation declared.
    """
    ranking = found.ranking
    if names := differing(ranking, layers):
        raise UserError(
            f"the ranking is of {ranking.base_model} and does not fit {config.name}: "
            f"{listed(names)}; give a ranking of this architecture"
        )
    if isinstance(files, Unknown) or ranking.model == files:
        return found
    if (relation := config.related.get(ranking.base_model)) is None:
        raise UserError(
            f"the ranking {found.reference} was made on other weights than {config.name} has: on "
            f"{ranking.base_model} ({_identity(ranking.model)}), and these are "
            f"{_identity(files)}. If one stems from the other, say how: --relation "
            f"{', '.join(RELATIONS)}; or in the model's profile, related: "
            f"{{{ranking.base_model}: {RELATIONS[0]}}}"
        )
    return replace(found, relation=relation)


def _identity(files: Mapping[str, str]) -> str:
    """`hub org/model, revision 0a1b2c3d4e5f`."""
    return ", ".join(f"{what} {value[:60]}" for what, value in files.items()) or "it does not say"


def differing(ranking: Ranking, layers: Sequence[Layer]) -> list[str]:
    """Say how the layers differ from a model's in name, shape or order; empty where they do not."""
    theirs = {x.name: x.shape for x in ranking.layers}
    ours = {x.name: x.shape for x in layers}
    found = [
        *(f"{n} (only in the ranking)" for n in theirs if n not in ours),
        *(f"{n} (only in the model)" for n in ours if n not in theirs),
        *(
            f"{n} {theirs[n]}, in the model {ours[n]}"
            for n in theirs
            if ours.get(n, theirs[n]) != theirs[n]
        ),
    ]
    reordered = not found and list(theirs) != list(ours)
    return ["the same layers in another order"] if reordered else found
