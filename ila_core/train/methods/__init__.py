"""How selected layers are trained: one file per method, one line in `METHODS`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ila_core.train.methods.adalora import AdaLora
from ila_core.train.methods.full import Full
from ila_core.train.methods.lora import Lora
from ila_core.train.methods.qlora import QLora
from ila_core.train.trainable import Trainable


class Method(Protocol):
    version: int
    """Raised when the same settings would train something else: in the key of what it trains."""
    four_bit: bool
    """Whether it trains on a base whose linear weights are kept in 4 bits."""
    experts: bool
    """Whether it trains tensors of experts, or linear modules only."""
    folder: str
    """Where in a payload its result lies."""

    def check(self, settings: Any, steps: int) -> None:
        """Refuse settings that a training of `steps` cannot obey, before anything is loaded.

        Raises:
            UserError: saying what would do.
        """

    def prepare(
        self,
        model: Any,
        layers: Sequence[str],
        settings: Any,
        *,
        seed: int,
        steps: int,
        ranks: Mapping[str, int] | None = None,
    ) -> Trainable:
        """Make exactly `layers` of the base model trainable, in place.

        Args:
            ranks: by layer, where they are not everywhere the method's.
        """

    def save(self, model: Any, folder: Path, base_name: str | None) -> None:
        """Write what was trained, the same bytes for the same weights."""

    def load(self, base: Any, folder: Path) -> Any:
        """The base with what `save` wrote.

        Raises:
            UserError: nothing that this method wrote is there.
            CheckError: what is there belongs to another model.
        """

    def detach(self, model: Any) -> None:
        """Take an adapter off the base again; full fine-tuning has changed it for good."""


METHODS: dict[str, Method] = {
    "lora": Lora(),
    "qlora": QLora(),
    "adalora": AdaLora(),
    "full": Full(),
}
