"""Rewrite: smaller graphs that compute the same."""
