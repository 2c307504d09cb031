"""The published one-minute protocol."""
