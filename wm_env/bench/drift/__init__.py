"""How a world drifts over long episodes."""
