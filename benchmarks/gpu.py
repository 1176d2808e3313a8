"""What only a GPU can tell, the most important first, in at most eight minutes.

    PYTHONPATH=. python benchmarks/gpu.py --out gpu.json             # a 7B shape; needs CUDA
    PYTHONPATH=. python benchmarks/gpu.py --rehearse --out cpu.json  # tiny, on a CPU

    stages        ms per iteration of stage 1 and stage 2 at batch 32, beside the paper's 6671 and
                  5343 (an A100; lengths not given), model FLOPs utilisation, peak memory
    arithmetic    one step of stage 1 by our LoRA arithmetic and by PEFT's own, each with and
                  without activation checkpointing, interleaved
    table7        Table 7's four memories at 2 x 1,024 tokens, beside the forecast; PEFT's own too
    kernels       which kernels one forward and backward of stage 1 spends its time in
    search        the demo's search by `ila_core` alone: whole, and killed and resumed

Runs where there is no more than torch, transformers, PEFT, accelerate, pydantic and `ila_core`;
4-bit rows need bitsandbytes and are left out by name without it. Each row is written to `--out` as
soon as it is measured. A row for which the time (`--seconds`) does not last is left out by name; a
row that fails is written with its error, the others go on, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts.bench import Bench, Size, timed
from benchmarks.gpu_parts.memory import table7
from benchmarks.gpu_parts.search import search
from benchmarks.gpu_parts.speed import arithmetic, kernels, stages
from benchmarks.record import Tolerance, machine

TOLERANCE: Tolerance = {
    "conditions.*": (0.05, 0.0),
    "*seconds": (0.5, 0.0),
    "*mib": (0.02, 0.0),
    "*gib": (0.02, 0.0),
    "*over*": (0.1, 0.0),
    "*": (0.2, 0.0),
}

SIZES = {
    "7B": Size(
        hidden=4096,
        intermediate=11008,
        blocks=32,
        heads=32,
        vocabulary=32000,
        batch=32,
        micro_batch=8,
        length=512,
        table7=(2, 1024),
        iterations=8,
        search_steps=40,
        dtype=torch.bfloat16,
    ),
    "tiny": Size(
        hidden=64,
        intermediate=128,
        blocks=4,
        heads=4,
        vocabulary=128,
        batch=4,
        micro_batch=2,
        length=16,
        table7=(2, 32),
        iterations=2,
        search_steps=8,
        dtype=torch.float32,
    ),
}


def conditions(bench: Bench, chosen: str) -> dict[str, Any]:
    def installed(name: str) -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    libraries = ("torch", "transformers", "peft", "accelerate", "pydantic", "bitsandbytes")
    shape = {k: str(v) if k == "dtype" else v for k, v in vars(bench.size).items()}
    found = {
        "size": chosen,
        **shape,
        "device": torch.cuda.get_device_name(bench.device) if bench.cuda else platform.machine(),
        "python": platform.python_version(),
        **{name: installed(name) for name in libraries},
    }
    if bench.cuda:
        found["matmul_tflops"] = matmul_tflops(bench.device)
    return found


def matmul_tflops(device: str) -> float:
    """The rate that a large product of bfloat16 matrices reaches: what can be had at most."""
    n = 8192
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b

    def products() -> None:
        for _ in range(10):
            a @ b

    spent, _ = timed(products, device)
    return 10 * 2 * n**3 / spent / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rehearse", action="store_true", help="tiny, on a CPU")
    parser.add_argument("--seconds", type=float, default=450, help="time for all rows")
    parser.add_argument("--out", type=Path, help="where each row goes as soon as it is measured")
    args = parser.parse_args()
    if not args.rehearse and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here; --rehearse measures everything at tiny size")
    chosen, device = ("tiny", "cpu") if args.rehearse else ("7B", "cuda")
    bench = Bench(SIZES[chosen], device, args.seconds, args.out)
    bench.note("machine", machine())
    bench.note("tolerance", TOLERANCE)
    bench.note("conditions", conditions(bench, chosen))
    print(json.dumps(bench.results["conditions"], indent=1), flush=True)
    stages(bench, four_bit=False)
    arithmetic(bench)
    table7(bench)
    stages(bench, four_bit=True)
    kernels(bench)
    search(bench)
    if bench.failed:
        sys.exit(f"{len(bench.failed)} rows failed: {', '.join(bench.failed)}")


if __name__ == "__main__":
    main()
