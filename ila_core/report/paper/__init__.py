"""The paper's published numbers, which `ila reproduce` shows beside ours."""
