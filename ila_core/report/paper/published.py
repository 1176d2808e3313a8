"""The paper's numbers of agreement, as printed (Llama 2-7B, Mistral-7B).

Each is the Jaccard index of the 169 of 225 layers that are kept, to two decimals; two random sets
of that size have 0.60.
"""

TABLE_2: dict[str, dict[tuple[str, str], float]] = {
    "Llama 2-7B": {
        ("lima", "no_robots"): 0.91,
        ("lima", "alpaca_gpt4"): 0.90,
        ("no_robots", "alpaca_gpt4"): 0.90,
    },
    "Mistral-7B-v0.1": {
        ("lima", "no_robots"): 0.90,
        ("lima", "alpaca_gpt4"): 0.89,
        ("no_robots", "alpaca_gpt4"): 0.93,
    },
}

DATASET = "lima"
"""The dataset of Figures 2 to 4."""

SEEDS = (0, 1, 2)
FIGURE_3: dict[tuple[int, int], float] = {(0, 1): 0.92, (0, 2): 0.91, (1, 2): 0.91}
"""Llama 2-7B on LIMA: pairs of gate seeds on one stage 1 (section 4.1)."""

GATE_BATCHES = 128
"""Batches of gate learning (section 4.4)."""

MILESTONES = (0.01, 0.25, 0.5, 0.75, 1.0)
"""Fractions of the planned steps of stage 1 (Fig. 4)."""
FIGURE_4: dict[tuple[float, float], float] = {
    (0.01, 0.25): 0.69,
    (0.01, 0.5): 0.70,
    (0.25, 0.5): 0.91,
    (0.01, 0.75): 0.69,
    (0.25, 0.75): 0.90,
    (0.5, 0.75): 0.92,
    (0.01, 1.0): 0.69,
    (0.25, 1.0): 0.91,
    (0.5, 1.0): 0.92,
    (0.75, 1.0): 0.93,
}
"""Llama 2-7B on LIMA: pairs of milestones."""
