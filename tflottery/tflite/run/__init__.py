"""Run: runs TFLite files in a process of their own."""
