"""Steps as a fan-out of child processes."""
