"""What actions give back, and what views print."""
