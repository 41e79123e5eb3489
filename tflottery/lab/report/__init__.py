"""Report: a run's results as one HTML file."""
