"""The model card of the demo's base, filled with what `pretrain` measured."""

from typing import Any


def card(facts: dict[str, Any]) -> str:
    return "TODO"
