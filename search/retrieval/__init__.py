"""Finding leaves: every mode of search, over vectors alone."""
