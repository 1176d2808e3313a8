"""Which numbers of a benchmark's result moved by more than its tolerance.

    python benchmarks/moved.py benchmarks/results/gate_cost.json new.json

Exits with 0 where none did, 3 where one did. A number that only one of the two has counts.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from record import numbers, tolerance_of


def moved(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """A line for each, by the tolerance of `old`."""
    before, after = numbers(old), numbers(new)
    lines = []
    for path in dict.fromkeys([*before, *after]):
        if path not in after:
            lines.append(f"{path}: {before[path]:g} -> gone")
        elif path not in before:
            lines.append(f"{path}: new, {after[path]:g}")
        else:
            relative, absolute = tolerance_of(path, old["tolerance"])
            a, b = before[path], after[path]
            if not math.isclose(a, b, rel_tol=relative, abs_tol=absolute):
                allowed = max(relative * max(abs(a), abs(b)), absolute)
                lines.append(f"{path}: {a:g} -> {b:g}, by {abs(a - b):.3g} ({allowed:.3g} allowed)")
    return lines


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("old", type=Path, help="what to compare with; its tolerance counts")
    parser.add_argument("new", type=Path)
    given = parser.parse_args(arguments)
    old, new = (json.loads(path.read_text()) for path in (given.old, given.new))
    machines = [_lasting(result["machine"]) for result in (old, new)]
    if machines[0] != machines[1]:
        print(f"machines: {machines[0]} and {machines[1]}")
    lines = moved(old, new)
    print("\n".join(lines) or f"none of {len(numbers(old))} numbers moved beyond its tolerance")
    sys.exit(3 if lines else 0)


def _lasting(machine: Any) -> Any:
    """What of a machine does not change from one measurement to the next."""
    if isinstance(machine, dict):
        return {name: value for name, value in machine.items() if name != "load_average"}
    return machine


if __name__ == "__main__":
    main()
