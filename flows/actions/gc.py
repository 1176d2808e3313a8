"""`ila gc`: show or remove files that can never be used again."""

import typer

from flows.views.printing import print_json, print_table
from ila_core.config import RuntimeConfig
from tasks.cache.garbage import Garbage, find_garbage, remove


def run_gc(*, older_than_days: float, really: bool, as_json: bool) -> None:
    """Show the garbage and its size; remove it when `really`."""
    runtime = RuntimeConfig.from_env()
    found = find_garbage(runtime, older_than_days=older_than_days)
    removed = list(remove(found, runtime)) if really else []
    if as_json:
        return print_json(
            {
                "removed": really,
                "bytes": sum(f.size for f in found),
                "found": [
                    {n: getattr(f, n) for n in ("what", "where", "why", "days", "size")}
                    for f in found
                ],
            }
        )
    if found:
        print_table(["what", "where", "why", "days", "MiB"], [_row(f) for f in found])
    total = f"{len(found)} found, {_mib(sum(f.size for f in found))} MiB"
    if really:
        typer.echo(f"{total}; {len(removed)} removed")
    else:
        typer.echo(f"{total}; nothing was removed" + ("; --remove does" if found else ""))


def _row(found: Garbage) -> list[str]:
    return [found.what, found.where, found.why, f"{found.days:.0f}", _mib(found.size)]


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
