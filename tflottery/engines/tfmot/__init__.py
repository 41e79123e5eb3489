"""TensorFlow Model Optimization's pruning wrappers, extended to masks that hold."""
