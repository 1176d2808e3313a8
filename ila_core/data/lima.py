"""LIMA: 1,030 curated conversations, 30 of them multi-turn. One row ends on a user turn."""

from ila_core.data.conversation import Conversation
from ila_core.data.formats import Dataset, from_turns
from ila_core.data.rows import SourceRow


def parse(row: SourceRow) -> Conversation:
    return from_turns(row, "conversations")


DATASET = Dataset(
    parse,
    repo="GAIR/lima",
    files="train.jsonl",
    licence="CC BY-NC-SA 4.0, or stricter where a source is",
)
