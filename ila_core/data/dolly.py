"""Databricks Dolly: 15,000 instructions, some about a given text, answered by people."""

from ila_core.data.conversation import Conversation
from ila_core.data.formats import Dataset, from_instruction
from ila_core.data.rows import SourceRow


def parse(row: SourceRow) -> Conversation:
    return from_instruction(row, context="context", answer="response")


DATASET = Dataset(
    parse,
    repo="databricks/databricks-dolly-15k",
    files="databricks-dolly-15k.jsonl",
    licence="CC BY-SA 3.0",
)
