"""The paper's Tables 1 and 3 to 11, as printed, for what `ila reproduce` shows beside ours.

MMLU (5-shot accuracy), HellaSwag (0-shot `acc`), Vicuna and MT-Bench (GPT-4's grades).
"""

from __future__ import annotations

COLUMNS = ("MMLU", "HellaSwag", "Vicuna", "MT-Bench")

Figures = tuple[float | None, ...]
Rows = dict[str, Figures]
"""Row label to the figures in the order of `COLUMNS`."""

LLAMA_2_7B, LLAMA_2_13B, MISTRAL_7B = "Llama 2-7B", "Llama 2-13B", "Mistral-7B-v0.1"

ARMS: dict[str, dict[tuple[str, str], Rows]] = {
    "table1": {
        (LLAMA_2_7B, "lima"): {
            "ATT (q, k, v, o)": (42.03, None, 5.63, 3.82),
            "ATT2 (q, k, v)": (42.65, None, 5.54, 3.80),
            "FFN (up, down, gate)": (43.06, None, 5.69, 3.92),
            "LoRA": (43.18, None, 5.78, 3.98),
        }
    },
    "table3": {
        (LLAMA_2_7B, "no_robots"): {
            "AdaLoRA": (45.23, 57.30, 5.70, 4.05),
            "Full fine-tuning": (45.72, 57.69, 6.00, 3.93),
            "Full fine-tuning w/ ILA": (45.98, 57.87, 5.90, 4.21),
            "LoRA": (44.58, 59.46, 6.23, 4.70),
            "LoRA w/ ILA": (45.78, 59.65, 6.30, 4.93),
        },
        (MISTRAL_7B, "no_robots"): {
            "AdaLoRA": (62.13, 61.68, 6.10, 5.03),
            "Full fine-tuning": (61.05, 64.26, 6.70, 5.56),
            "Full fine-tuning w/ ILA": (61.75, 64.21, 6.73, 5.70),
            "LoRA": (61.95, 62.90, 6.77, 5.35),
            "LoRA w/ ILA": (62.14, 62.80, 6.82, 5.42),
        },
    },
    "table4": {
        (LLAMA_2_7B, "lima"): {
            "AdaLoRA": (44.21, 59.85, 5.66, 3.82),
            "Full fine-tuning": (46.36, 62.06, 5.85, 3.91),
            "Full fine-tuning w/ ILA": (46.32, 62.18, 5.96, 4.02),
            "LoRA": (43.18, 54.52, 5.78, 3.98),
            "LoRA w/ ILA": (44.13, 54.55, 5.88, 4.10),
        },
        (MISTRAL_7B, "lima"): {
            "AdaLoRA": (62.40, 61.52, 6.58, 4.46),
            "Full fine-tuning": (60.11, 63.76, 6.99, 5.39),
            "Full fine-tuning w/ ILA": (61.01, 64.01, 6.94, 5.47),
            "LoRA": (60.83, 65.42, 6.82, 4.88),
            "LoRA w/ ILA": (61.52, 65.51, 6.92, 5.34),
        },
    },
    "table5": {
        (MISTRAL_7B, "no_robots"): {
            "LoRA": (61.95, 62.90, 6.77, 5.35),
            "LoRA w/ ILA (10 %)": (62.09, 61.94, 6.49, 5.08),
            "LoRA w/ ILA (20 %)": (61.83, 62.16, 6.60, 5.23),
            "LoRA w/ ILA (30 %)": (61.89, 62.79, 6.71, 5.37),
        }
    },
    "table6": {
        # Printed for QLoRA on Llama 2-7B and Llama 3.1-8B; Table 10's figures, but for the 30 %.
        ("Llama 2-7B and Llama 3.1-8B", "lima"): {
            "QLoRA": (53.85, 63.08, 6.40, 4.43),
            "QLoRA w/ ILA (75 %)": (54.33, 62.04, 6.54, 4.55),
            "QLoRA w/ ILA (30 %)": (54.27, 62.88, 6.31, 4.54),
        },
        ("Llama 2-7B and Llama 3.1-8B", "no_robots"): {
            "QLoRA": (54.08, 61.73, 6.69, 4.94),
            "QLoRA w/ ILA (75 %)": (54.45, 61.13, 6.77, 5.05),
        },
    },
    "table8": {
        (LLAMA_2_7B, "no_robots"): {
            "LoRA": (44.58, 59.46, 6.23, 4.70),
            "LoRA w/ RL 1": (44.23, 59.71, 6.08, 4.60),
            "LoRA w/ RL 2": (43.98, 59.11, 6.10, 4.68),
            "LoRA w/ FL": (44.02, 59.32, 6.13, 4.59),
            "LoRA w/ LL": (44.61, 59.21, 6.20, 4.63),
            "LoRA w/ ILA": (45.78, 59.65, 6.30, 4.93),
        }
    },
    "table9": {
        (MISTRAL_7B, "lima"): {
            "LIMA": (61.82, 65.48, 6.99, 5.38),
            "No Robots": (61.52, 65.51, 6.92, 5.34),
            "Alpaca-GPT4": (61.23, 65.20, 7.03, 5.21),
            "Intersection": (61.49, 65.62, 7.06, 5.44),
        }
    },
    "table10": {
        (LLAMA_2_13B, "lima"): {
            "LoRA": (53.85, 63.08, 6.40, 4.43),
            "LoRA w/ ILA": (54.33, 62.04, 6.54, 4.55),
        },
        (LLAMA_2_13B, "no_robots"): {
            "LoRA": (54.08, 61.73, 6.69, 4.94),
            "LoRA w/ ILA": (54.45, 61.13, 6.77, 5.05),
        },
    },
    "table11": {
        (LLAMA_2_7B, "alpaca_gpt4"): {
            "AdaLoRA": (46.13, 57.85, 7.06, 3.90),
            "Full fine-tuning": (45.91, 57.73, 4.62, 3.56),
            "Full fine-tuning w/ ILA": (46.23, 57.67, 5.03, 4.01),
            "LoRA": (43.66, 58.49, 6.91, 4.21),
            "LoRA w/ ILA": (44.69, 58.22, 7.01, 4.58),
        },
        (MISTRAL_7B, "alpaca_gpt4"): {
            "AdaLoRA": (62.48, 62.08, 7.43, 5.51),
            "Full fine-tuning": (60.56, 62.80, 4.55, 3.82),
            "Full fine-tuning w/ ILA": (60.88, 62.91, 5.22, 4.11),
            "LoRA": (61.82, 62.70, 7.31, 6.15),
            "LoRA w/ ILA": (62.14, 62.80, 7.45, 6.19),
        },
    },
}

MEMORY_MIB: dict[str, int] = {
    "LoRA (100 %)": 32_988,
    "LoRA w/ ILA (30 %)": 25_614,
    "QLoRA (100 %)": 26_032,
    "QLoRA w/ ILA (30 %)": 18_142,
}
"""Table 7: batch 2, length 1,024, Llama 2-7B."""
