"""A selection as another trainer's configuration, and what proves it applied."""
