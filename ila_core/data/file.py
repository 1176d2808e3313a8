"""A user's own file: each row says by its fields which of three shapes it has."""

from ila_core.data.conversation import Conversation
from ila_core.data.formats import Dataset, from_instruction, from_messages, one_exchange
from ila_core.data.rows import SourceRow
from ila_core.errors import UserError


def parse(row: SourceRow) -> Conversation:
    if "messages" in row.fields:
        return from_messages(row)
    if "instruction" in row.fields:
        return from_instruction(row, context="input", answer="output")
    if "prompt" in row.fields:
        return one_exchange(row.text("prompt"), row.text("response"))
    has = ", ".join(map(str, row.fields)) or "none"
    raise UserError(
        f"{row.file}, row {row.number}: given the fields {has}; allowed are messages, "
        "or instruction with output (and input), or prompt with response"
    )


DATASET = Dataset(parse, repo=None)
