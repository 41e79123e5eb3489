"""Lab: published experiments, built on the public API."""
