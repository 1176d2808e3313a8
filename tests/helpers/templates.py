"""The chat templates that TRL ships, which stand for what people have, with a tokenizer each."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import trl
from transformers import AutoTokenizer

from ila_core.data.chat_template import Renderer
from tests.conftest import ROOT

SHIPPED = {path.stem: path.read_text() for path in Path(trl.__file__).parent.rglob("*.jinja")}
_LITERAL = r"<[a-z_]+[|]>|<[|][a-z_]+>|<[|\uff5c][^<>]{1,40}[|\uff5c]>|</?[a-z_]+>|\[/?[A-Z_]+\]"
_TEXT = {f"<{'/' * close}{name}>" for name in ("think", "tools", "tool_call") for close in (0, 1)}


@cache
def tokenizer_of(template: str) -> Any:
    """The demo's, with the special tokens that a template writes out."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "ila_core" / "demo" / "base")
    tokenizer.bos_token = "<s>"
    literals = sorted(set(re.findall(_LITERAL, template)) - _TEXT)
    tokenizer.add_special_tokens({"additional_special_tokens": literals})
    return tokenizer


@cache
def renderer_of(name: str, **variables: Any) -> Renderer:
    template = SHIPPED.get(name, name)
    return Renderer(tokenizer_of(template), template, variables)
