"""Steps that evaluate models, and the report of a run."""
