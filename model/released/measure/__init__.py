"""Measuring kernels and released models on the machine at hand, within a budget of time."""
