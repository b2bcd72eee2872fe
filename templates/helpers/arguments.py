"""Argument checks of a generated operator: plain Python, no tensor is read."""

import os

import torch

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _bind(op, sizes, name, tensor, layout):
    """Checks one tensor against its layout and learns the sizes of axes not seen before."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: '{name}' must be a tensor, got {type(tensor).__name__}.")
    wanted = ", ".join(layout)
    if tensor.dim() != len(layout):
        raise ValueError(
            f"{op}: '{name}' has shape {tuple(tensor.shape)}, expected {len(layout)} "
            f"dimensions [{wanted}]."
        )
    for axis, size in zip(layout, tensor.shape):
        if axis not in sizes:
            sizes[axis] = size
        elif sizes[axis] != size:
            raise ValueError(
                f"{op}: '{name}' has shape {tuple(tensor.shape)} for [{wanted}]; "
                f"{axis} is {sizes[axis]} elsewhere, here {size}."
            )


def _dtype_name(dtype):
    return str(dtype).removeprefix("torch.")


def _io(op, name, tensor, cast):
    """What the first input decides: (device, io dtype, whether autocast brings others to it)."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: '{name}' must be a tensor, got {type(tensor).__name__}.")
    device, dtype = tensor.device, tensor.dtype
    if dtype not in _FLOATS:
        if dtype == torch.float64 and device.type == "cpu":
            return device, dtype, False
        raise TypeError(
            f"{op}: '{name}' has dtype {_dtype_name(dtype)}, expected float32, float16 or "
            "bfloat16 (float64 on the CPU only)."
        )
    if cast and torch.is_autocast_enabled(device.type):
        return device, torch.get_autocast_dtype(device.type), True
    return device, dtype, False


def _take(op, name, tensor, device, dtype, cast=False, also=None):
    """One tensor on ``device``, contiguous, of ``dtype`` or ``also``; cast to it under autocast."""
    if not isinstance(tensor, torch.Tensor):
        raise TypeError(f"{op}: '{name}' must be a tensor, got {type(tensor).__name__}.")
    if tensor.device != device:
        raise ValueError(f"{op}: '{name}' is on {tensor.device}, the first input on {device}.")
    found = tensor.dtype
    if found != dtype and found != also:
        if not cast or found not in _FLOATS:
            other = "" if also in (None, dtype) else f" or {_dtype_name(also)}"
            raise TypeError(
                f"{op}: '{name}' has dtype {_dtype_name(found)}, "
                f"expected {_dtype_name(dtype)}{other}."
            )
        tensor = tensor.to(dtype)
    return tensor.contiguous()


def _packing(op, cu_seqlens, first):
    """``cu_seqlens`` checked: its values only on the CPU or with SEQGEN_DEBUG=1."""
    if not isinstance(cu_seqlens, torch.Tensor):
        raise TypeError(f"{op}: 'cu_seqlens' must be a tensor, got {type(cu_seqlens).__name__}.")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(
            f"{op}: 'cu_seqlens' has shape {tuple(cu_seqlens.shape)}, expected [sequences + 1]."
        )
    cu_seqlens = _take(op, "cu_seqlens", cu_seqlens, first.device, torch.int32, also=torch.int64)
    if first.dim() < 2:
        return cu_seqlens  # what is wrong with the input is said later
    batch, length = first.shape[:2]
    if batch != 1:
        raise ValueError(
            f"{op}: packed sequences need a batch of 1, got {batch}; "
            "flatten the batch into time and add its borders to 'cu_seqlens'."
        )
    if _traced(cu_seqlens):
        return cu_seqlens
    if cu_seqlens.device.type == "cpu" or os.environ.get("SEQGEN_DEBUG") == "1":
        borders = cu_seqlens.tolist()
        if borders[0] != 0 or borders[-1] != length or sorted(borders) != borders:
            raise ValueError(
                f"{op}: 'cu_seqlens' must ascend from 0 to T = {length}, got {borders}."
            )
    return cu_seqlens


# Private, and there since PyTorch 2.0; without it every call counts as traced.
_modes = getattr(torch._C, "_len_torch_dispatch_stack", lambda: 1)


def _traced(tensor):
    """Whether PyTorch records or replaces what runs: compile, export, fake tensors, modes.

    Then the registered operators are called; otherwise the same functions without them, which
    saves most of the time of a call on small tensors.
    """
    if torch.compiler.is_compiling() or type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return True
    return _modes() > 0
