"""Search: finds a winning ticket."""
