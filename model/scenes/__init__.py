"""Seeded procedural rooms, their exact renderer, and walks through them."""
