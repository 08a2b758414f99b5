"""The Earth: S2 arithmetic, distances, places by name, polygons of cells."""
