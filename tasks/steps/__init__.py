"""The kinds of step, one file each, by phase; `table` lists them."""
