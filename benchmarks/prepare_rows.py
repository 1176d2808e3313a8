"""What preparing many rows takes: memory above the imports, and how both grow with the rows.

    python benchmarks/prepare_rows.py [--rows 52000] [--json]

Rows of about 200 tokens, made here, are read from a JSON Lines file, tokenized by the demo's
tokenizer, split and saved, in a process of its own for each size: an eighth of the rows, then all.
*mib*: VmHWM at the end less VmRSS after the imports and one small preparation. The ratios are of
one run, so that a noisy machine disturbs both sizes alike: 8 is growth in proportion to the rows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import Tolerance, recorded

TOLERANCE: Tolerance = {"mib.*": (0.15, 10.0), "*_ratio": (0.3, 0.0), "*": (0.5, 0.0)}
_TEXT = "the fox lives in a den near the river and eats mice at night while the owl sleeps "


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measured(args.rows)))
        return
    few, many = (of_process(rows) for rows in (args.rows // 8, args.rows))
    result = {
        "rows": args.rows,
        "mib": {"few": few["mib"], "many": many["mib"]},
        "seconds": {"few": few["seconds"], "many": many["seconds"]},
        "tokens_a_row": many["tokens"] / args.rows,
        "bytes_a_token": many["mib"] * 2**20 / many["tokens"],
        "mib_ratio": many["mib"] / few["mib"],
        "seconds_ratio": many["seconds"] / few["seconds"],
    }
    print(json.dumps(recorded(result, TOLERANCE) if args.json else result, indent=1))


def of_process(rows: int) -> dict[str, float]:
    """`measured` in a process of its own."""
    command = [sys.executable, __file__, "--child", "--rows", str(rows)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def measured(rows: int) -> dict[str, float]:
    """Prepare so many rows; MiB above the imports, seconds and tokens."""
    with tempfile.TemporaryDirectory() as folder:
        prepare_file(Path(folder), 50)
        before = status("VmRSS")
        start = time.perf_counter()
        tokens = prepare_file(Path(folder), rows)
        return {
            "mib": (status("VmHWM") - before) / 1024,
            "seconds": time.perf_counter() - start,
            "tokens": tokens,
        }


def prepare_file(folder: Path, rows: int) -> int:
    """Write the rows, prepare and save them as the pipeline's step does; how many tokens."""
    from ila_core.config import DatasetConfig
    from ila_core.config.inputs import Preparation
    from ila_core.config.load import load_model_config
    from ila_core.data import Dataset, Mixture
    from ila_core.data.chat_template import Renderer
    from ila_core.data.tokenize import prepare
    from ila_core.models.loading import load_tokenizer

    path = folder / "rows.jsonl"
    with path.open("w") as file:
        for i in range(rows):
            prompt = f"Question {i}: where does fox {i % 977} live?"
            row = {"prompt": prompt, "response": (_TEXT * 6)[i % 80 :]}
            file.write(json.dumps(row) + "\n")
    renderer = Renderer(load_tokenizer(load_model_config("demo")), None)
    data = Preparation(max_length=512, held_out_fraction=0.05, gate_fraction=0.05, split_seed=0)
    mixture = Mixture([Dataset(DatasetConfig(name="rows", source=str(path)), None)])
    prepared = prepare(mixture, renderer, data, dataset="rows")
    prepared.save(folder / "prepared")
    return sum(of["all"] for of in prepared.statistics["tokens"].values())


def status(field: str) -> int:
    """KiB of this process, as Linux counts them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


if __name__ == "__main__":
    main()
