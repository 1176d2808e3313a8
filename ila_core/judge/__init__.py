"""Judges of answers, and the grades they give (Vicuna, MT-Bench)."""
