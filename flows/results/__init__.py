"""The results of actions, which views print."""
