"""Comparison of evaluations on the same items, and the decision by a rule about them."""
