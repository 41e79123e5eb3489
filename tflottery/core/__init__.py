"""Core: NumPy, and nothing that knows Keras."""
