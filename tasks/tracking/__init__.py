"""MLflow: the client, the registry of rankings, and accounts."""
