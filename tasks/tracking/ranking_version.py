"""A published version of a ranking, as MLflow's registry records it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

PREFIX = "layer-ranking."


@dataclass(frozen=True)
class Version:
    """A published version of a ranking."""

    name: str
    number: int
    run_id: str
    aliases: tuple[str, ...]
    published: int
    """Time of publication, in milliseconds since 1970."""
    card: str
    tags: dict[str, str]

    @property
    def reference(self) -> str:
        return f"{self.name}/{self.number}"

    @property
    def digest(self) -> str:
        """The ranking's digest (`Ranking.digest`)."""
        return self.tags["ila.digest"]

    @property
    def key(self) -> str:
        """The key of the step that made the ranking."""
        return self.tags["ila.key"]

    @property
    def retired(self) -> str | None:
        """Why it was retired, or `None`."""
        return self.tags.get("ila.retired")


def read_version(mv: ModelVersion, aliases: Mapping[str, str | int] | None = None) -> Version:
    """Convert MLflow's record. Its version number is int from SQLite and str over REST; a search
    returns no aliases, so pass the registered model's `aliases` then."""
    pointing: Sequence[str] = mv.aliases
    if aliases is not None:
        pointing = [alias for alias, number in aliases.items() if int(number) == int(mv.version)]
    return Version(
        name=mv.name.removeprefix(PREFIX),
        number=int(mv.version),
        run_id=str(mv.run_id),
        aliases=tuple(sorted(pointing)),
        published=int(mv.creation_timestamp),
        card=mv.description or "",
        tags=dict(mv.tags),
    )


def is_retired(found: Version, asked: str, instead: Version | None) -> str:
    """Compose the message about a retired version, with the one to use instead."""
    what = f"{asked} was retired" if asked == found.reference else (
        f"{asked} points at {found.reference}, which was retired"
    )  # fmt: skip
    other = f"take {instead.reference}, the newest that was not" if instead else (
        "no other version is left: search anew"
    )  # fmt: skip
    return f"{what}: {found.retired}. Instead {other}; or, knowing why, key:{found.key}"
