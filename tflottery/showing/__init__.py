"""Showing: the figures, tables and pages of a ticket and of a search."""
