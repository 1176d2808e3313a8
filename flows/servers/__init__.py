"""`ila servers`: PostgreSQL, MLflow and Prefect as processes, without a container engine."""
