"""The paper's Tables 1 and 3 to 11, as printed, for what `ila reproduce` shows beside ours.

MMLU (5-shot accuracy), HellaSwag (0-shot `acc`), Vicuna and MT-Bench (GPT-4's grades), in
`published_tables.csv`. Its rows of Table 6 are those printed for QLoRA on Llama 2-7B and Llama
3.1-8B; they are Table 10's figures, but for the 30 %.
"""

import csv
from pathlib import Path

COLUMNS = ("MMLU", "HellaSwag", "Vicuna", "MT-Bench")


def figures(table: str, dataset: str, row: str) -> dict[str, float]:
    """What the paper prints in a row of a table, by model and column."""
    path = Path(__file__).with_suffix(".csv")
    with path.open(encoding="ascii", newline="") as lines:
        return {
            f"paper, {x['model']}: {column}": float(x[column])
            for x in csv.DictReader(lines)
            if (x["table"], x["dataset"], x["row"]) == (table, dataset, row)
            for column in COLUMNS
            if x[column]
        }


MEMORY_MIB: dict[str, int] = {
    "LoRA (100 %)": 32_988,
    "LoRA w/ ILA (30 %)": 25_614,
    "QLoRA (100 %)": 26_032,
    "QLoRA w/ ILA (30 %)": 18_142,
}
"""Table 7: batch 2, length 1,024, Llama 2-7B."""
