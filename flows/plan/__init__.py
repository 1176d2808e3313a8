"""The parts of the pipeline: arms, evidence, the paper's recipe and its tables."""
