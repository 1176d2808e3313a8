"""How a ranking is called: `name@alias`, `name/version`, `key:<12 hex>`, or a path to a .json file.

>>> parse("stories3m@champion")
Published(name='stories3m', alias='champion', version=None)
"""

import re
from dataclasses import dataclass
from pathlib import Path

from ila_core.config.base import Relation
from ila_core.errors import UserError
from ila_core.search.ranking import Ranking

FORMS = "name@alias, name/version, key:<12 hex>, or a path ending in .json"

_A_NAME, _AN_ALIAS = r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,79}", r"[A-Za-z][A-Za-z0-9_\-]{0,79}"
PATTERN = rf"^(key:[0-9a-f]{{12}}|{_A_NAME}(@{_AN_ALIAS}|/[1-9][0-9]{{0,8}})|.+\.json)$"
"""What a form can check of it; `parse` checks all and says what is wrong."""

_KEY = re.compile(r"key:([0-9a-f]{12})")
_PUBLISHED = re.compile(r"(?P<name>[^@/]+)(?:@(?P<alias>[^@/]+)|/(?P<version>[1-9][0-9]{0,8}))")
_NAME, _ALIAS = re.compile(_A_NAME), re.compile(_AN_ALIAS)
_NO_ALIAS = re.compile(r"latest|v[0-9]+", re.IGNORECASE)  # MLflow keeps these to itself


@dataclass(frozen=True)
class Key:
    """The cached step that made it."""

    key: str


@dataclass(frozen=True)
class File:
    path: Path


@dataclass(frozen=True)
class Published:
    """One version of a name, by its number or by an alias that points at it."""

    name: str
    alias: str | None
    version: int | None


@dataclass(frozen=True)
class ResolvedRanking:
    """A ranking, and what it was found by: an alias is followed once, and never again."""

    ranking: Ranking
    reference: str
    """The reference as it was given: `stories3m@champion`."""
    pinned: str
    """What means this one for good: `stories3m/3`, or the reference where that does already."""
    card: str | None = None
    """What was written of it when it was published."""
    relation: Relation | None = None
    """How the model that it is used for is related to the one searched; `None`: the same."""

    @property
    def digest(self) -> str:
        return self.ranking.digest

    @property
    def said(self) -> str:
        """`stories3m@champion, which is stories3m/3`."""
        other = self.reference != self.pinned
        return f"{self.reference}, which is {self.pinned}" if other else self.reference


def parse(given: str) -> Key | File | Published:
    """Parse a reference. Whether there is such a ranking is not looked up.

    Raises:
        UserError: it has none of the four forms.
    """
    if match := _KEY.fullmatch(given):
        return Key(match[1])
    if given.endswith(".json"):
        return File(Path(given).expanduser())
    if match := _PUBLISHED.fullmatch(given):
        check_name(match["name"])
        if match["alias"] is not None:
            check_alias(match["alias"])
        version = match["version"]
        return Published(match["name"], match["alias"], int(version) if version else None)
    hint = f", such as {given}@champion" if _NAME.fullmatch(given) else ""
    raise UserError(f"{given!r} is no reference to a ranking: give {FORMS}{hint}")


def check_name(name: str) -> None:
    """Refuse a name that could not be told from a path or from another part of a reference.

    Raises:
        UserError: it is one.
    """
    if not _NAME.fullmatch(name) or ".." in name or name.endswith(".json"):
        raise UserError(
            f"{name!r} cannot name a ranking: give a letter or digit, then up to 79 letters, "
            "digits, hyphens, underscores or single dots, such as mistral-7b"
        )


def check_alias(alias: str) -> None:
    """Refuse an alias that MLflow does not take, or that reads like a version.

    Raises:
        UserError: it is one.
    """
    if not _ALIAS.fullmatch(alias) or _NO_ALIAS.fullmatch(alias):
        raise UserError(
            f"{alias!r} cannot be an alias: give a letter, then up to 79 letters, digits, hyphens "
            "or underscores, but neither `latest` nor v1, v2 ...; such as champion"
        )
