"""Steps of the search, from stage 1 to the ranking and its evidence."""
