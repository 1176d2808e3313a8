"""Defaults that the size of a dataset or of a model decides."""

from bisect import bisect
from math import exp, log

from ila_core.config.inputs import DataConfig, Preparation

_PAPER = {
    "lora": ((1_030, 20.0), (9_500, 3.0), (52_002, 1.5)),
    "full": ((1_030, 5.0), (9_500, 3.0), (52_002, 0.5)),
}
"""Conversations of LIMA, No Robots and Alpaca-GPT4, and the epochs that Appendix B has for Llama
2-7B on them."""
_MOST_IN_A_SEARCH = 78_003
"""Conversations that stage 1 sees at most: the paper's largest, 1.5 epochs of Alpaca-GPT4."""
_MOST_TOKENS = 4_096
_HELD_OUT = 64
"""Held-out conversations that are wanted of each dataset; `search.evidence.held_out` reads them."""


def epochs(conversations: int, method: str) -> float:
    """The epochs of fine-tuning with a method, by the paper's three datasets.

    Between two of them the logarithm of the epochs falls on a line of that of the conversations;
    beyond the smallest and the largest it is theirs.
    """
    points = _PAPER["full" if method == "full" else "lora"]
    sizes = [size for size, _ in points]
    at = bisect(sizes, conversations)
    if at in (0, len(points)):
        return points[min(at, len(points) - 1)][1]
    (n0, e0), (n1, e1) = points[at - 1], points[at]
    share = log(conversations / n0) / log(n1 / n0)
    return float(f"{exp(log(e0) + share * log(e1 / e0)):.2g}")


def search_epochs(conversations: int) -> float:
    """The epochs of a whole stage 1: those of LoRA, and never more conversations than the paper's
    largest."""
    return min(epochs(conversations, "lora"), float(f"{_MOST_IN_A_SEARCH / conversations:.2g}"))


def preparation(
    data: DataConfig, conversations: int, positions: int | None, *, validation: bool = False
) -> Preparation:
    """How one dataset is prepared.

    Args:
        data: the profile's settings.
        conversations: of the dataset.
        positions: most tokens of a row that the model can read; `None`: no limit.
        validation: whether it brings conversations that are held out.
    """
    share = min(0.2, max(0.02, float(f"{_HELD_OUT / conversations:.2g}")))
    return Preparation(
        max_length=longest_row(data, positions),
        held_out_fraction=0 if validation else data.held_out_fraction or share,
        gate_fraction=data.gate_fraction,
        split_seed=data.split_seed,
    )


def longest_row(data: DataConfig, positions: int | None) -> int:
    """The length that conversations are cut to, in tokens."""
    return data.max_length or min(_MOST_TOKENS, positions or _MOST_TOKENS)
