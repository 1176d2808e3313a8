"""`--refresh STEP --reason WHY`: finished steps to compute again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ila_core.errors import UserError
from tasks.cache.step import Step


@dataclass(frozen=True)
class Refresh:
    """The steps to compute again, and the reason, which is recorded with the replaced result."""

    names: tuple[str, ...] = ()
    reason: str = ""

    @classmethod
    def asked(cls, names: Sequence[str] | None, reason: str | None) -> Refresh:
        """Build it from the two options.

        Raises:
            UserError: when one option is given without the other.
        """
        if names and not reason:
            raise UserError(
                "--refresh needs --reason 'why': what it replaces stays in the store, and whoever "
                "finds it there reads the reason"
            )
        if reason and not names:
            raise UserError("--reason says why a step is computed again: give --refresh STEP too")
        return cls(tuple(names or ()), reason or "")

    def keys(self, steps: Sequence[Step]) -> list[str]:
        """Return the keys of the steps that `names` gives by kind, label or key.

        Raises:
            UserError: when a name matches no step.
        """
        return [key for name in self.names for key in self._named(name, steps)]

    @staticmethod
    def _named(given: str, steps: Sequence[Step]) -> list[str]:
        found = [str(s.key) for s in steps if given in (s.name, s.label, f"key:{s.key}")]
        if not found:
            kinds = ", ".join(sorted({s.name for s in steps}))
            raise UserError(
                f"--refresh {given!r} is none of this run's steps. Give a kind ({kinds}), a label "
                f"such as {steps[0].label!r}, or key:<12 hex> as `ila plan` prints it"
            )
        return found


NOTHING = Refresh()
