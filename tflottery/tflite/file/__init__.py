"""File: a TFLite flatbuffer, read and written."""
