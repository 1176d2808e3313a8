"""The paper's Tables 1 and 3 to 11 as printed (`tables.csv`), for comparison with our own.

They give MMLU (5-shot accuracy), HellaSwag (0-shot `acc`), Vicuna and MT-Bench (GPT-4's grades).
Table 6 is printed for QLoRA on Llama 2-7B and Llama 3.1-8B, but has Table 10's figures except 30 %.
"""

import csv
from functools import cache
from pathlib import Path

COLUMNS = ("MMLU", "HellaSwag", "Vicuna", "MT-Bench")

Figures = tuple[float | None, ...]
Rows = dict[str, Figures]
"""Row label to the figures in the order of `COLUMNS`."""


@cache
def arms(table: str) -> dict[tuple[str, str], Rows]:
    """Return a table's rows by model and dataset; empty for a table that has no arms."""
    found: dict[tuple[str, str], Rows] = {}
    with Path(__file__).with_name("tables.csv").open(encoding="ascii", newline="") as file:
        for row in csv.DictReader(file):
            if row["table"] == table:
                figures = tuple(float(row[column]) if row[column] else None for column in COLUMNS)
                found.setdefault((row["model"], row["dataset"]), {})[row["arm"]] = figures
    return found


MEMORY_MIB: dict[str, int] = {
    "LoRA (100 %)": 32_988,
    "LoRA w/ ILA (30 %)": 25_614,
    "QLoRA (100 %)": 26_032,
    "QLoRA w/ ILA (30 %)": 18_142,
}
"""GPU memory in MiB (Table 7): Llama 2-7B, batch 2, length 1,024."""
