"""How large the house is: loose modules, modules by folder, long files, lines of product code.

python benchmarks/counts.py           # what is over a limit is marked; exits with 1 if anything is
python benchmarks/counts.py --json
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PRODUCT = ("ila_core", "tasks", "flows")
LOOSE = {"ila_core": 6, "tasks": 0, "flows": 6}
"""Most modules that lie in no folder of their package."""
SMALLEST, LARGEST = 2, 16
"""Modules of a folder, `__init__.py` not counted; a folder of folders alone has none."""
LONGEST = 400
"""Lines of a file, tests and benchmarks included."""
LINES = 31_700
"""Of the product, blank lines and comments included; lowered with each deletion."""
GOAL = 27_500


def counts(root: Path = ROOT) -> dict[str, Any]:
    """All figures, and `over`, a sentence for each that breaks its limit."""
    files = {top: sorted((root / top).rglob("*.py")) for top in (*PRODUCT, "tests", "benchmarks")}
    lines = {
        str(path.relative_to(root)): len(path.read_text(encoding="utf-8").splitlines())
        for paths in files.values()
        for path in paths
    }
    folders: dict[str, int] = {}
    for top in PRODUCT:
        for path in files[top]:
            if path.name != "__init__.py":
                folder = str(path.parent.relative_to(root))
                folders[folder] = folders.get(folder, 0) + 1
    loose = {top: folders.pop(top, 0) for top in PRODUCT}
    product = {
        top: sum(lines[str(path.relative_to(root))] for path in files[top]) for top in PRODUCT
    }
    over = [f"{top}: {n} loose modules, at most {LOOSE[top]}" for top, n in loose.items()
            if n > LOOSE[top]]  # fmt: skip
    over += [f"{folder}: {n} modules, {SMALLEST} to {LARGEST}" for folder, n in folders.items()
             if not SMALLEST <= n <= LARGEST]  # fmt: skip
    over += [f"{path}: {n} lines, at most {LONGEST}" for path, n in lines.items() if n > LONGEST]
    if (total := sum(product.values())) > LINES:
        over.append(f"{' '.join(PRODUCT)}: {total:,} lines, at most {LINES:,}")
    return {
        "loose": loose, "folders": folders, "lines": product, "product_lines": total,
        "longest": dict(sorted(lines.items(), key=lambda x: -x[1])[:5]), "over": over,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    given = parser.parse_args()
    found = counts()
    if given.json:
        print(json.dumps(found, indent=1))
    else:
        for what in ("loose", "folders", "lines", "longest"):
            print(what)
            for name, n in found[what].items():
                print(f"  {n:7,}  {name}")
        print(f"product: {found['product_lines']:,} lines (at most {LINES:,}; goal {GOAL:,})")
        for line in found["over"]:
            print(f"over: {line}")
    sys.exit(1 if found["over"] else 0)


if __name__ == "__main__":
    main()
