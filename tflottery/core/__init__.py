"""Core: masks, criteria, pruning and files. Needs NumPy; knows nothing of Keras."""
