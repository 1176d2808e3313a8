"""A JSON Lines file of finished work; a kill while a line is appended loses that line only."""

import json
import os
from pathlib import Path
from typing import Any


class Damaged(Exception):
    """A complete line that is not valid: an interrupted write leaves only an incomplete one."""


def read_appended(path: Path) -> list[Any]:
    """Read the values of a file, none if it does not exist; truncate an incomplete last line.

    Raises:
        Damaged: when a line is not JSON; the message has its number.
    """
    if not path.exists():
        return []
    content = path.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(path, len(whole))
    found = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise Damaged(f"{path}, line {number}") from error
    return found
