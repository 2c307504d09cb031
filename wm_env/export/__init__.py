"""Labelled episodes on disk: our own folders, Minari datasets, LeRobot v3 datasets, and replay."""
