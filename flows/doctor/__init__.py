"""`ila doctor`: what is installed, reachable and usable."""
