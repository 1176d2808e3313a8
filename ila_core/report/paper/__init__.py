"""The paper's own numbers, which `ila reproduce` shows beside ours."""
