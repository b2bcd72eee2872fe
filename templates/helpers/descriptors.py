"""Tiles that a GPU with a tensor memory accelerator loads by descriptor."""

import threading


def _aligned(tensor):
    """Whether a tensor starts where descriptors may start, at 16 bytes."""
    return tensor.storage_offset() * tensor.element_size() % 16 == 0


def _describable(tensors, cu_seqlens, sizes, rows, whole):
    """Whether descriptors, which read whole tiles in memory order, can read the tensors.

    ``rows`` counts the rows of the longest matrix of states, ``whole`` says that columns fit.
    """
    if cu_seqlens is not None or sizes["T"] % 64 or not whole:
        return False
    small = max(sizes["B"] * sizes["T"], rows) < 2**31
    return small and all(map(_aligned, tensors))


_ENTERED = threading.local()  # devices whose CUDA context the thread has entered


def _enter_context(tensor):
    """Work on the device, once per thread.

    Autograd's threads enter no context until they give the GPU something to do; a launch with
    descriptors makes these before it enters one, and fails.
    """
    entered = _ENTERED.__dict__.setdefault("devices", set())
    if tensor.device.type == "cuda" and tensor.device not in entered:
        tensor.new_zeros(1)
        entered.add(tensor.device)


def _rows_descriptor(tensor, columns):
    """A descriptor of 64-row tiles over [tokens, heads * size]."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    _enter_context(tensor)
    flat = tensor.view(-1, tensor.shape[-2] * tensor.shape[-1])
    return TensorDescriptor.from_tensor(flat, [64, columns])


def _states_descriptor(states, BK, BV):
    """A descriptor of [BK, BV] blocks over [chunks * heads * K, V]."""
    from triton.tools.tensor_descriptor import TensorDescriptor

    return TensorDescriptor.from_tensor(states.view(-1, states.shape[-1]), [BK, BV])
