"""What `ila` can do, one file for each capability."""
