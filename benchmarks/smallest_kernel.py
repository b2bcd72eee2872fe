"""The least that Triton can be asked to compile."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def increment_kernel(pointer):  # noqa: ANN001, ANN201
    """Adds 1 to one number."""
    tl.store(pointer, tl.load(pointer) + 1)
