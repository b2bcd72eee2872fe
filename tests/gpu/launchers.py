"""Launchers as a generated module has them, on tensors without data."""

from __future__ import annotations

import torch
import triton.language as tl


def meta(*shape, dtype="bfloat16"):
    return torch.empty(shape, dtype=getattr(torch, dtype), device="meta")


def launch_dot(kernels, *, n=8, m=64, width=128, k=64, bias=None, **options):
    """A closure that launches ``dot_kernel`` once on meta tensors."""
    tensors = meta(n, m, k), meta(n, k, width), meta(m, width, dtype="float32")

    def launch():
        kernels.dot_kernel[(1,)](*tensors, bias, n, m, width, k, tl.float32, **options)

    return launch
