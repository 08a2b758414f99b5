"""What is learned of cells, beside an encoder or for vectors that stay as they are."""
