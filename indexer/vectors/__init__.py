"""Vectors of photos and of cells, and what a score means."""
