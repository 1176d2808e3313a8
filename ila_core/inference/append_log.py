"""A file to which finished work is appended line by line, so that a kill loses only the last."""

import json
import os
from pathlib import Path
from typing import Any


class Damaged(Exception):
    """A line that no kill explains."""


def read_appended(path: Path) -> list[Any]:
    """The values that lie in a file, none without one; a last line that was cut short is taken off.

    Raises:
        Damaged: a line that is not JSON; its text says which.
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
