"""What the pipeline is made of: arms, evidence, the paper's recipe and tables."""
