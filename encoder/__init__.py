"""Images in, vectors out: decoding, crops, the CLIP vision model, its weights on disk. Knows nothing of cells."""
