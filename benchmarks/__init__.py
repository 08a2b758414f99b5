"""Measurements: speed against named peers, and accuracy in a small embedded world. Never installed."""
