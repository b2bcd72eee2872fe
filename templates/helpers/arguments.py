"""Argument checks of a generated operator: plain Python, no tensor is read."""

import os

import torch

_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _no_tensor(op, name, value):
    return TypeError(f"{op}: '{name}' must be a tensor, got {type(value).__name__}.")


def _elsewhere(op, name, tensor, device):
    return ValueError(f"{op}: '{name}' is on {tensor.device}, the first input on {device}.")


def _bind(op, sizes, name, tensor, layout, note=""):
    """Checks one tensor against its layout; learns sizes of new axes, and where it saw them."""
    if not isinstance(tensor, torch.Tensor):
        raise _no_tensor(op, name, tensor)
    wanted = ", ".join(layout)
    if tensor.dim() != len(layout):
        raise ValueError(
            f"{op}: '{name}' has shape {tuple(tensor.shape)}, expected {len(layout)} "
            f"dimensions [{wanted}].{note}"
        )
    for axis, size in zip(layout, tensor.shape):
        if axis not in sizes:
            sizes[axis] = size
            sizes[axis, "from"] = name
        elif sizes[axis] != size:
            where = "in the batch" if axis == "sequences" else "by the spec"
            if (axis, "from") in sizes:
                where = f"in '{sizes[axis, 'from']}'"
            raise ValueError(
                f"{op}: '{name}' has shape {tuple(tensor.shape)} for [{wanted}]; "
                f"{axis} is {sizes[axis]} {where}, here {size}.{note}"
            )


def _dtype_name(dtype):
    return str(dtype).removeprefix("torch.")


def _io(op, name, tensor, cast):
    """What the first input decides: (device, io dtype, whether autocast brings others to it)."""
    if not isinstance(tensor, torch.Tensor):
        raise _no_tensor(op, name, tensor)
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


def _take(op, name, tensor, device, dtype, cast=False, also=None, like=None, note=""):
    """One tensor on ``device``, contiguous, of ``dtype`` or ``also``; cast to it under autocast.

    In messages, ``like`` is the input whose dtype is ``dtype``; ``note`` comes last.
    """
    if not isinstance(tensor, torch.Tensor):
        raise _no_tensor(op, name, tensor)
    if tensor.device != device:
        raise _elsewhere(op, name, tensor, device)
    found = tensor.dtype
    if found != dtype and found != also:
        if not cast or found not in _FLOATS:
            other = "" if also in (None, dtype) else f" or {_dtype_name(also)}"
            if like is not None:
                other = ", as autocast has it" if cast else f", as '{like}' has"
            raise TypeError(
                f"{op}: '{name}' has dtype {_dtype_name(found)}, "
                f"expected {_dtype_name(dtype)}{other}.{note}"
            )
        tensor = tensor.to(dtype)
    return tensor.contiguous()


def _sequences(sizes, cu_seqlens):
    """Sets the number of sequences."""
    sizes["sequences"] = sizes["B"]
    if cu_seqlens is not None:
        sizes["sequences"] = cu_seqlens.shape[0] - 1
        sizes["sequences", "from"] = "cu_seqlens"


def _floating(op, first, tensors):
    """Checks for the reference: ``tensors`` by name, on one device, in any floating dtypes."""
    if not isinstance(tensors[first], torch.Tensor):
        raise _no_tensor(op, first, tensors[first])
    device = tensors[first].device
    for name, tensor in tensors.items():
        if tensor is None:
            continue  # absent; a required one is refused when its shape is looked at
        if not isinstance(tensor, torch.Tensor):
            raise _no_tensor(op, name, tensor)
        if tensor.device != device:
            raise _elsewhere(op, name, tensor, device)
        if tensor.dtype not in _FLOATS and tensor.dtype != torch.float64:
            raise TypeError(
                f"{op}: '{name}' has dtype {_dtype_name(tensor.dtype)}, expected float64, "
                "float32, float16 or bfloat16."
            )


def _no_gradients(op, names, tensors):
    """Refuses tensors whose gradient would silently be missing."""
    for name, tensor in zip(names, tensors):
        if tensor is not None and tensor.requires_grad:
            raise RuntimeError(
                f"{op}: '{name}' requires a gradient; a step has none. "
                "Call it under torch.no_grad()."
            )


def _packing(op, cu_seqlens, first):
    """``cu_seqlens`` checked: its values only on the CPU or with SEQGEN_DEBUG=1."""
    if not isinstance(cu_seqlens, torch.Tensor):
        raise _no_tensor(op, "cu_seqlens", cu_seqlens)
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
    if _traced(cu_seqlens):  # noqa: F821
        return cu_seqlens
    if cu_seqlens.device.type == "cpu" or os.environ.get("SEQGEN_DEBUG") == "1":
        borders = cu_seqlens.tolist()
        if borders[0] != 0 or borders[-1] != length or sorted(borders) != borders:
            raise ValueError(
                f"{op}: 'cu_seqlens' must ascend from 0 to T = {length}, got {borders}."
            )
    return cu_seqlens
