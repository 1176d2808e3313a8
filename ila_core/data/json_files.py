"""JSON that somebody else wrote: what it says, or what is wrong with it."""

import json
from pathlib import Path
from typing import Any

from ila_core.errors import UserError, first_line


def parsed_json(content: bytes | str, where: object) -> Any:
    """What the JSON of somebody's file says.

    Raises:
        UserError: it is none, or more than Python reads; `where` says of what.
    """
    try:
        return json.loads(content if isinstance(content, str) else content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply to be read") from error
    except ValueError as error:  # no JSON, or a number of more digits than Python reads
        raise UserError(f"{where}: not JSON ({first_line(error)})") from error


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        UserError: it holds something else.
    """
    found = parsed_json(path.read_bytes(), path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: given {type(found).__name__}; allowed is a JSON object")
    return found
