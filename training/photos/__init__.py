"""The photos of a run: which are held out, how each epoch sees them, how batches are made of them."""
