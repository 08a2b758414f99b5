"""How good answers are, and whether their probabilities are true."""
