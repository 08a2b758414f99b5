"""Learning the encoder and the geocells together, as the paper does (section III-C)."""
