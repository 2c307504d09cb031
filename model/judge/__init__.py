"""A fixed small network that tells floor, ceiling and walls in pictures; no world is trained with it."""
