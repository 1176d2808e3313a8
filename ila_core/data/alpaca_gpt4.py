"""Alpaca-GPT4: 52,000 instructions answered by GPT-4."""

from ila_core.data.conversation import Conversation
from ila_core.data.formats import Dataset, from_instruction
from ila_core.data.rows import SourceRow


def parse(row: SourceRow) -> Conversation:
    return from_instruction(row, context="input", answer="output")


DATASET = Dataset(
    parse, repo="vicgalle/alpaca-gpt4", files="data/train*.parquet", licence="CC BY-NC 4.0"
)
