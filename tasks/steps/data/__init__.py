"""Steps that make data: prepared conversations, texts of the base."""
