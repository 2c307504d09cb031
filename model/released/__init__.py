"""The released SANA-WM models: their files, their pipelines, and what they need of a machine."""
