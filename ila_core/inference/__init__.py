"""Questions, generated answers to them, and log-likelihoods of given continuations."""
