"""Partitions of the Earth by where photos are, the hierarchies they make, and their tables."""
