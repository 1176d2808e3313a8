"""From a ranking to layers that train, and their fine-tuning."""
