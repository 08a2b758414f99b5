"""Photos on their way to a model: bytes are read, become pixels, travel as batches and are cut."""
