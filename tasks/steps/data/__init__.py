"""Steps that make data: prepared conversations, and texts that the base model writes."""
