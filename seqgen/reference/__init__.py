"""Float64 interpreters of the IR in PyTorch, and error measures."""
