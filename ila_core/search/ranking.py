"""The result of a search: every layer's score, per dataset and seed, with what made it.

Every selection, export and publication derives from this one document and from nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from statistics import fmean
from typing import Any, Final, Literal

from pydantic import ValidationError, model_validator

from ila_core.config import Frozen
from ila_core.config.base import Name
from ila_core.errors import CheckError, UserError
from ila_core.keys import digest_of
from ila_core.models.layers import UNCOVERED, Layer, fingerprint

SCHEMA: Final = 2
"""Raised when a document would be read otherwise than it was meant."""
DOCUMENT = "ranking.json"
"""What the file is called in a step's payload, published or pulled."""
MOST_BYTES = 16 * 2**20
"""Most bytes of a document that is read: 225 layers, three datasets and seeds take 0.1 MiB."""


class LayerScores(Layer):
    scores: dict[str, dict[str, float]]
    """`scores[dataset][search seed]`; larger is more important."""


class Coverage(Frozen):
    """What of the base model the layers are (`ila_core.models.layers.Examined`)."""

    share: float
    """The share of the language model's matrix weights that the layers hold."""
    outside: str
    """The largest parameters in no layer, as text."""

    @property
    def said(self) -> str | None:
        """What lies outside, in a sentence; `None` where that is little."""
        if 1 - self.share <= UNCOVERED:
            return None
        return (
            f"the layers hold {self.share:.1%} of the model's matrix weights; neither ranked nor "
            f"trained by a selection are {self.outside}"
        )


class Rendering(Frozen):
    """How the search wrote conversations as rows."""

    template: str | None
    """The chat template; `None`: the tokenizer's own."""
    template_variables: dict[str, str | bool | int]
    max_length: int | None
    """Tokens at which rows were cut; `None`: the scores come from the weights alone."""


class Ranking(Frozen):
    schema_version: Literal[2] = SCHEMA
    base_model: str = Name
    model: dict[str, str]
    """Hub id and commit, or the digest of a local folder's files."""
    architecture: str
    """Fingerprint over names and shapes (`ila_core.models.layers.fingerprint`)."""
    key: str
    """Key of the ranking step that made it."""
    scorer: str
    """`ila`, or an entry of `ila_core.search.scorers.SCORERS`."""
    keep: float
    """Fraction of the layers that it was made to keep."""
    score_keys: dict[str, dict[str, str]]
    """`score_keys[dataset][seed]`: the step behind each column, `stage2` or `score`."""
    stable: dict[str, dict[str, bool | None]]
    """Whether the stage 1 behind each column became stable; `None` where there was none."""
    unsure: dict[str, tuple[str, ...] | None]
    """Per dataset, the layers that some search seeds keep and others freeze; `None` for a single
    seed, of which nobody knows."""
    data_keys: dict[str, str]
    """The prepare step of each dataset."""
    settings: dict[str, Any]
    """Per dataset, the identity of the stages behind its scores."""
    layers: tuple[LayerScores, ...]
    versions: dict[str, str]
    """Libraries it was computed with."""
    coverage: Coverage | None = None
    rendering: Rendering | None = None
    """Both `None` in a ranking that was made before they were recorded."""

    @model_validator(mode="after")
    def _every_layer_has_every_score(self) -> Ranking:
        if not self.layers:
            raise ValueError("a ranking needs at least one layer")
        wanted = {dataset: set(keys) for dataset, keys in self.score_keys.items()}
        for layer in self.layers:
            if {dataset: set(seeds) for dataset, seeds in layer.scores.items()} != wanted:
                raise ValueError(f"{layer.name}: scores do not match score_keys")
        return self

    @property
    def datasets(self) -> tuple[str, ...]:
        return tuple(self.score_keys)

    def seeds(self, dataset: str) -> tuple[str, ...]:
        return tuple(self.score_keys[dataset])

    @property
    def unstable(self) -> list[str]:
        """`dataset seed N` of each stage 1 that was not stable when it ended."""
        columns = ((d, seed, stable) for d, x in self.stable.items() for seed, stable in x.items())
        return [f"{dataset} seed {seed}" for dataset, seed, stable in columns if stable is False]

    def scores(self, dataset: str, seed: str | None = None) -> dict[str, float]:
        """Return the score per layer name, of one search seed or the mean over all of them."""
        columns = {layer.name: layer.scores[dataset] for layer in self.layers}
        if seed is not None:
            return {name: scores[seed] for name, scores in columns.items()}
        return {name: fmean(scores.values()) for name, scores in columns.items()}

    def start(self, dataset: str) -> float:
        """The score of a layer of which nothing was learnt: where gates start, 0 for others."""
        gates = self.settings.get(dataset, {}).get("stage2", {})
        return float(gates.get("settings.initial_score", 0.0))

    @property
    def digest(self) -> str:
        """The digest of the content, however the file is laid out."""
        # A ranking without them keeps the digest that it was published with.
        later = {name for name in ("coverage", "rendering") if getattr(self, name) is None}
        return digest_of(self.model_dump(exclude=later))

    def check(self) -> None:
        """Refuse a document whose layers are not those that its fingerprint stands for.

        Raises:
            CheckError: they are not.
        """
        if (found := fingerprint(self.layers)) != self.architecture:
            raise CheckError(
                f"the ranking {self.key} of {self.base_model} says that its architecture is "
                f"{self.architecture}, but its layers have the fingerprint {found}: it was changed "
                "since it was made"
            )

    def save(self, path: Path) -> None:
        path.write_text(self.model_dump_json(indent=1) + "\n", encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> Ranking:
        """Read what `save` wrote.

        Raises:
            UserError: there is no file, it is not a ranking, or larger than any can be.
        """
        if not path.is_file():
            raise UserError(
                f"{path} is no file: give the ranking.json of a search, or what `ila rankings show "
                "REF --json` prints"
            )
        if (size := path.stat().st_size) > MOST_BYTES:
            raise UserError(f"{path} is no ranking: it has {size:,} bytes (at most {MOST_BYTES:,})")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            if field == "schema_version" and first["type"] == "literal_error":
                raise UserError(
                    f"{path} is a ranking of another version of ILA (schema {first['input']}, and "
                    f"this one reads {SCHEMA}): use that version, or search anew with this one"
                ) from error
            raise UserError(
                f"{path} is no ranking ({f'{field}: ' if field else ''}{first['msg']}); give the "
                "ranking.json of a search, or what `ila rankings show REF --json` prints"
            ) from error


def order(scores: Mapping[str, float], layers: Sequence[Layer]) -> list[str]:
    """Sort layer names by score, descending, ties by layer order."""
    return sorted((layer.name for layer in layers), key=lambda name: -scores[name])


def exact(fraction: float | Fraction) -> Fraction:
    """The number that was written: 7/10 for 0.7, which as a float is a little less."""
    return Fraction(str(fraction))


def kept_count(fraction: float | Fraction, n_layers: int) -> int:
    """Return the number of layers kept, floor(f*N + 1/2); K = N - kept is the number frozen."""
    return math.floor(exact(fraction) * n_layers + Fraction(1, 2))


def least(
    scores: Mapping[str, float], layers: Sequence[Layer], fraction: float | Fraction
) -> frozenset[str]:
    """Return the names of the K = N - kept(1 - fraction) layers with the lowest scores."""
    return frozenset(order(scores, layers)[kept_count(1 - exact(fraction), len(layers)) :])


def digest_read(ranking: Ranking, datasets: Sequence[str]) -> str:
    """Digest what a policy that reads the scores of `datasets` may learn from a ranking."""
    columns = [[x.name, {d: ranking.scores(d)[x.name] for d in datasets}] for x in ranking.layers]
    return digest_of([columns, {d: ranking.start(d) for d in datasets}])
