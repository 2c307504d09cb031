"""Measurements of a world: how true its frames are, and what a step costs."""
