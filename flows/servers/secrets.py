"""Generated passwords, each in a file that only its owner can read."""

import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path


def secret(folder: Path, name: str) -> str:
    """Return the secret called `name`, generated at the first call."""
    file = folder / "secrets" / name
    if not file.exists():
        write_private(file, secrets.token_urlsafe(24))
    return file.read_text()


def write_variables(file: Path, variables: Mapping[str, str]) -> None:
    """Write a shell file that exports `variables` when sourced."""
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write_private(file, "".join(lines))


def write_private(file: Path, text: str) -> None:
    """Write a file that other users cannot read at any moment."""
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    arriving = file.with_name(f".{file.name}.{os.getpid()}")
    with os.fdopen(os.open(arriving, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    arriving.replace(file)
