"""Source: a dense TFLite file from a Keras model."""
