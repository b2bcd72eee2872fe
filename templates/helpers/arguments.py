"""Argument checks of a generated operator: plain Python, no tensor is read."""

import os

import torch


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


def _check_dtype(op, name, tensor, allowed):
    if tensor.dtype not in allowed:
        names = " or ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(
            f"{op}: '{name}' has dtype {str(tensor.dtype).removeprefix('torch.')}, "
            f"expected {names}."
        )


def _check_device(op, name, tensor, device):
    if tensor.device != device:
        raise ValueError(f"{op}: '{name}' is on {tensor.device}, the first input on {device}.")


def _check_packing(op, cu_seqlens, batch, length, device):
    """Shape, dtype and device always; values only on the CPU or with SEQGEN_DEBUG=1."""
    if not isinstance(cu_seqlens, torch.Tensor):
        raise TypeError(f"{op}: 'cu_seqlens' must be a tensor, got {type(cu_seqlens).__name__}.")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] < 1:
        raise ValueError(
            f"{op}: 'cu_seqlens' has shape {tuple(cu_seqlens.shape)}, expected [sequences + 1]."
        )
    _check_dtype(op, "cu_seqlens", cu_seqlens, (torch.int32, torch.int64))
    _check_device(op, "cu_seqlens", cu_seqlens, device)
    if batch != 1:
        raise ValueError(
            f"{op}: packed sequences need a batch of 1, got {batch}; "
            "flatten the batch into time and add its borders to 'cu_seqlens'."
        )
    if torch.compiler.is_compiling():
        return
    if cu_seqlens.device.type == "cpu" or os.environ.get("SEQGEN_DEBUG") == "1":
        borders = cu_seqlens.tolist()
        if borders[0] != 0 or borders[-1] != length or sorted(borders) != borders:
            raise ValueError(
                f"{op}: 'cu_seqlens' must ascend from 0 to T = {length}, got {borders}."
            )
