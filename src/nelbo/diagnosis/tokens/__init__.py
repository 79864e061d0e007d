"""Which declaration of a network over symbols suits it best: siblings, draws that they share, checks."""
