"""What a cold start costs before any operator: PyTorch alone, and Triton's smallest kernel."""

from __future__ import annotations

import time

import torch

TORCH = "torch alone"
TRITON = "smallest Triton kernel"


def torch_alone() -> float:
    """Imports PyTorch and gets a CUDA context; returns the Unix time at its end."""
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()
    return time.time()


def triton_alone() -> float:
    """Compiles and launches one kernel of two lines; returns the Unix time at its end."""
    from benchmarks.smallest_kernel import increment_kernel

    increment_kernel[(1,)](torch.zeros(1, device="cuda"))
    return torch_alone()


FLOORS = {TORCH: torch_alone, TRITON: triton_alone}
