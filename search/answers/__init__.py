"""From leaves to answers: points, radii, regions, caps, rows."""
