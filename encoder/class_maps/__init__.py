"""Class maps of many photos: what a map means, and the folders that hold them."""
