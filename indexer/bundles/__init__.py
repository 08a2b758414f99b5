"""Bundles: FAISS indices with their cells, how they are built, and the registry that publishes them."""
