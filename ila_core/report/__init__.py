"""What a run found, as one page."""
