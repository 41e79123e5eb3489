"""The `tflottery` command."""
