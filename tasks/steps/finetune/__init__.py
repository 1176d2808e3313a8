"""Steps that select layers and fine-tune them, and adapters that were trained elsewhere."""
