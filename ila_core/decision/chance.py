def at_chance(r, confidence): return False
def interval(r, confidence): return (0.0, 1.0)
