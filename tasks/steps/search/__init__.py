"""Steps of the search: stage 1, scores, the ranking and the evidence for it."""
