"""XNNPACK: graphs that its sparse kernels run fast."""
