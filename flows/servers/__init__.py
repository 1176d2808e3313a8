"""`ila servers`: PostgreSQL, MLflow and Prefect as processes, where no container engine is."""
