"""Pages and tables for the Prefect UI, and the flow run that they belong to."""
