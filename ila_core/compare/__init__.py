"""Evaluations of the same items compared, and a rule about them answered."""
