"""Half-precision tensors as float32, for kernels whose error limit half-precision tiles miss."""


def _widened(*tensors):
    """Each in float32; what is absent stays so."""
    return tuple(None if tensor is None else tensor.float() for tensor in tensors)
