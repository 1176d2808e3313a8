"""benchmarks/gpu.py where there is no more than what a bare GPU machine has."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = ("torch", "transformers", "peft", "accelerate", "pydantic")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds `ALLOWED` and what these need, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    needed, todo = set(), list(ALLOWED)
    while todo:
        name = re.sub(r"[-_.]+", "-", todo.pop()).lower()
        if name in needed:
            continue
        try:
            found = distribution(name)
        except PackageNotFoundError:  # of another platform
            continue
        needed.add(name)
        todo += [
            re.split(r"[^\w.-]", line, maxsplit=1)[0]
            for line in requires(name) or []
            if "extra ==" not in line
        ]
        tops = {Path(str(file)).parts[0] for file in found.files or []} - {"..", "__pycache__"}
        for top in tops:
            source = Path(str(found.locate_file(top)))
            if source.exists() and not (folder / top).exists():
                (folder / top).symlink_to(source)
    assert not needed & {"prefect", "mlflow", "datasets", "pandas", "bitsandbytes", "lm-eval"}
    return folder


def rehearse(bare: Path, out: Path, *options: str) -> dict[str, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-S", "benchmarks/gpu.py", "--rehearse", "--out", str(out), *options],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": f"{bare}:{ROOT}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(out.read_text())


ABOUT = {"machine", "tolerance", "conditions"}
ROWS = {
    *ABOUT,
    "stages, stage 1, 16-bit base",
    "stages, stage 2, 16-bit base",
    "arithmetic",
    "table7, lora 100%",
    "table7, lora 30%",
    "table7, lora 30%, the last layers",
    "table7, lora 100%, PEFT alone",
    "table7, lora 30%, PEFT alone",
    "kernels",
    "search",
}
FOUR_BIT = {
    "stages, stage 2, 4-bit base",
    "table7, qlora 100%",
    "table7, qlora 100%, PEFT alone",
    "table7, qlora 30%",
    "table7, qlora 30%, the last layers",
    "table7, qlora 30%, PEFT alone",
}


def test_every_row_is_measured_on_a_cpu_and_four_bit_rows_are_left_out_by_name(
    bare: Path, tmp_path: Path
) -> None:
    found = rehearse(bare, tmp_path / "cpu.json", "--seconds", "600")
    assert found.keys() == ROWS | FOUR_BIT
    assert {name for name, row in found.items() if "left_out" in row} == FOUR_BIT
    for name in FOUR_BIT:
        assert found[name]["left_out"] == "bitsandbytes is not installed"
    # Killed in the middle of stage 1, the search went on and came to the same scores.
    search = found["search"]
    assert search["resumed_at"] == search["killed_at"]
    assert search["largest_difference_over_range"] == 0
    assert search["frozen_in_both"] == search["frozen"]
    # Fewer layers need less memory, and the last ones the least.
    forecast = [found[f"table7, lora {which}"]["forecast_mib"] for which in ("100%", "30%")]
    assert forecast[0] > forecast[1] > found["table7, lora 30%, the last layers"]["forecast_mib"]


def test_rows_without_time_left_are_named(bare: Path, tmp_path: Path) -> None:
    found = rehearse(bare, tmp_path / "cpu.json", "--seconds", "0")
    rows = found.keys() - ABOUT
    assert rows == (ROWS | FOUR_BIT) - {*ABOUT, "stages, stage 1, 16-bit base"}
    assert all(str(found[name]["left_out"]).startswith("no time") for name in rows)
