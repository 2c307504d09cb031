"""Playing by hand: a session that knows no screen, and a local browser page for it."""
