"""What a start costs: `ila --help`, a fully cached `ila run`, and what each spends its time on.

    python benchmarks/cached_run.py [--profile demo] [--rounds 5] [--json]

The profile must have been run. The commands are interleaved, round by round, so that a noisy
machine disturbs them alike; `cached_run_over_bare_python` is a ratio of medians in this one run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time

from record import Tolerance, recorded

TOLERANCE: Tolerance = {
    "slowest_imports_ms.*": (1.0, 20.0),
    "cached_run_over_bare_python": (0.3, 0.0),
    "*": (0.5, 0.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default="demo")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    python = [sys.executable]
    commands = {
        "python": [*python, "-c", "pass"],
        "help": [*python, "-m", "flows.cli.app", "--help"],
        "cached_run": [*python, "-m", "flows.cli.app", "run", args.profile, "--json"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            start = time.perf_counter()
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            seconds[name].append(time.perf_counter() - start)
            if done.returncode:
                sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
            if name == "cached_run" and json.loads(done.stdout)["computed"]:
                sys.exit(f"{args.profile} was not fully cached; run it first")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "seconds_median": medians,
        "seconds_best": {name: min(values) for name, values in seconds.items()},
        "cached_run_over_bare_python": medians["cached_run"] / medians["python"],
        "slowest_imports_ms": {n: slowest_imports(commands[n]) for n in ("help", "cached_run")},
    }
    if args.json:
        print(json.dumps(recorded(result, TOLERANCE), indent=1))
        return
    for name, values in seconds.items():
        print(f"{name:12} best {min(values):6.3f} s   median {medians[name]:6.3f} s")
    for name, imports in result["slowest_imports_ms"].items():
        print(f"{name}: " + ", ".join(f"{module} {ms:.0f} ms" for module, ms in imports.items()))


def slowest_imports(command: list[str], n: int = 8) -> dict[str, float]:
    """Modules by their own import time (`-X importtime`), milliseconds."""
    timed = [command[0], "-X", "importtime", *command[1:]]
    lines = subprocess.run(timed, capture_output=True, text=True, check=True).stderr.splitlines()
    own: dict[str, float] = {}
    for line in lines:
        parts = line.removeprefix("import time:").split("|")
        if len(parts) == 3 and parts[0].strip().isdigit():
            own[parts[2].strip()] = int(parts[0]) / 1000
    return dict(sorted(own.items(), key=lambda item: -item[1])[:n])


if __name__ == "__main__":
    main()
