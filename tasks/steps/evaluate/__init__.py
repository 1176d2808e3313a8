"""Steps that measure models, and the report of all."""
