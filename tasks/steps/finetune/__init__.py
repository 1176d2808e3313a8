"""Steps that select layers and train them, here or elsewhere."""
