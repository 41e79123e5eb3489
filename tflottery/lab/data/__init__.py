"""Data: the datasets of the published experiments."""
