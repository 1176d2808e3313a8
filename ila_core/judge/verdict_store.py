"""Verdicts by content: the same judge, asked the same for the same time, is not asked again.

One file per verdict, written whole or not at all, so a crash loses only what was being asked, and
several processes may share a folder. (Two that ask the same at the same time both pay.)
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ila_core.errors import CheckError
from ila_core.judge.ask import Ask
from ila_core.judge.verdict import Verdict
from ila_core.keys import digest_of


class VerdictStore:
    """
    Args:
        folder: made when the first verdict comes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def get(self, judge: dict[str, Any], ask: Ask) -> Verdict | None:
        """The verdict of the judge that `judge` describes, if it has given one.

        Raises:
            CheckError: the file is damaged.
        """
        path = self._path(judge, ask)
        try:
            return Verdict.model_validate(json.loads(path.read_bytes())["verdict"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise CheckError(
                f"{path}: damaged; delete it, and the judge is asked for this verdict again"
            ) from error

    def put(self, judge: dict[str, Any], ask: Ask, verdict: Verdict) -> None:
        """Keep `verdict`, with what was asked beside it for a reader."""
        path = self._path(judge, ask)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = {"judge": judge, "ask": ask.model_dump(), "verdict": verdict.model_dump()}
        temporary = path.with_suffix(f".{os.getpid()}.{threading.get_ident()}.tmp")
        temporary.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        temporary.replace(path)

    def _path(self, judge: dict[str, Any], ask: Ask) -> Path:
        digest = digest_of([judge, ask.model_dump()])
        return self._folder / digest[:2] / f"{digest}.json"
