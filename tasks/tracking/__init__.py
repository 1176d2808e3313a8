"""MLflow: its client, the registry of rankings, accounts."""
