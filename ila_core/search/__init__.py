"""The search for the layers that matter: stage 1, gates, scorers, ranking."""
