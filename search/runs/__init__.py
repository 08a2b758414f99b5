"""Offline jobs over many photos, and their results for people."""
