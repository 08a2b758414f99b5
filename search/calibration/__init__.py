"""Calibration: what makes probabilities, radii and photos count as held-out photos say they should."""
