"""Questions that a model answers in conversation, and its answers (Vicuna, MT-Bench)."""
