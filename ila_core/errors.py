"""Errors meant for a user: what was given, what is allowed, what to do."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(ValueError):
    """Wrong input: the command line prints the message alone and exits with 2."""


class CheckError(RuntimeError):
    """A step could not vouch for its own result (a selection not applied, a NaN): exits with 1."""


class Diverged(CheckError):
    """A loss that is not finite: the settings will not do, which a search over them takes in."""


def first_line(error: BaseException) -> str:
    """The error in one line; its type where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first of `names`, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def unknown_name(kind: str, given: str, allowed: Iterable[str]) -> UserError:
    """`unknown profile 'dem': did you mean 'demo'? Known: demo, smoke`."""
    names = sorted(allowed)
    near = difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    hint = f": did you mean {near[0]!r}?" if near else "."
    return UserError(f"unknown {kind} {given!r}{hint} Known: {listed(names, most=40)}")
