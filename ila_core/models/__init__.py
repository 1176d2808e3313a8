"""Base models: their linear layers, and how they are loaded."""
