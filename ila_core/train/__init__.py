"""Training on given layers: the loop, the loss, memory, checkpoints, methods."""
