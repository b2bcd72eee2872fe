"""Which kernels a launcher would start, with which arguments: recorded, not run.

The launchers of a generated module work on tensors of the ``meta`` device as well, so a machine
without a GPU can see every launch. Nothing here asks Triton for its driver.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seqgen.errors import SeqgenError, UsageError


@dataclass(frozen=True)
class TensorArgument:
    """A tensor as a kernel's pointer sees it: what specialisation looks at, without the data."""

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int
    storage: int
    """Elements in the whole storage: Triton picks 32-bit buffer offsets on AMD by it."""

    @classmethod
    def of(cls, tensor: Any) -> TensorArgument:
        """The description of a torch tensor on any device."""
        dtype = tensor.dtype
        storage = tensor.untyped_storage().nbytes() // dtype.itemsize
        offset = tensor.storage_offset()
        name = str(dtype).removeprefix("torch.")
        return cls(name, tuple(tensor.shape), tensor.stride(), offset, storage)

    def meta(self) -> Any:
        """A tensor on the ``meta`` device that Triton specialises like the recorded one."""
        import torch

        base = torch.empty(self.storage, dtype=getattr(torch, self.dtype), device="meta")
        return base.as_strided(self.shape, self.strides, self.offset)


@dataclass(frozen=True)
class DescriptorArgument:
    """A host ``TensorDescriptor``."""

    base: TensorArgument
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block_shape: tuple[int, ...]
    padding: str

    def meta(self) -> Any:
        """The descriptor over a ``meta`` tensor."""
        from triton.tools.tensor_descriptor import TensorDescriptor

        lists = (list(self.shape), list(self.strides), list(self.block_shape))
        return TensorDescriptor(self.base.meta(), *lists, padding=self.padding)


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel.

    Plain data apart from ``kernel``; pickling sends the kernel as the file and the name it has.
    """

    kernel: Any
    """The ``triton.runtime.jit.JITFunction``."""
    grid: tuple[int, int, int]
    arguments: Mapping[str, Any]
    """By parameter name, defaults filled in. Tensors as ``TensorArgument``."""
    options: Mapping[str, Any]
    """``num_warps``, ``num_stages``, ``maxnreg`` and what else is no parameter of the kernel."""

    @property
    def name(self) -> str:
        """The kernel's function name."""
        return str(self.kernel.__name__)

    def __reduce__(self) -> tuple[Any, ...]:
        file = self.kernel.fn.__code__.co_filename
        return _rebuild, (file, self.name, self.grid, dict(self.arguments), dict(self.options))


def _rebuild(
    file: str,
    name: str,
    grid: tuple[int, int, int],
    arguments: dict[str, Any],
    options: dict[str, Any],
) -> Launch:
    from pathlib import Path

    from seqgen.runtime.loader import import_file

    return Launch(getattr(import_file(Path(file)), name), grid, arguments, options)


def capture_launches(launcher: Callable[[], object]) -> list[Launch]:
    """Call ``launcher`` and record every Triton kernel it launches, in order; none runs.

    Args:
        launcher: calls launch functions on ``meta`` (or CPU) tensors.

    Raises:
        UsageError: ``TRITON_INTERPRET`` is set, so there are no compiled kernels.
        SeqgenError: a launch whose arguments do not fit the kernel.
    """
    from triton import knobs
    from triton.runtime.jit import JITFunction

    if knobs.runtime.interpret:
        raise UsageError("Kernels cannot be compiled while TRITON_INTERPRET is set. Unset it.")
    launches: list[Launch] = []

    def record(kernel: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
        launches.append(_bind(kernel, args, kwargs, grid))

    original = JITFunction.run
    JITFunction.run = record
    try:
        launcher()
    finally:
        JITFunction.run = original
    return launches


def _bind(kernel: Any, args: tuple[Any, ...], kwargs: dict[str, Any], grid: Any) -> Launch:
    options = {
        key: value for key, value in kwargs.items() if key not in kernel.signature.parameters
    }
    named = {key: value for key, value in kwargs.items() if key not in options}
    try:
        bound: inspect.BoundArguments = kernel.signature.bind(*args, **named)
    except TypeError as error:
        raise SeqgenError(f"The launch of {kernel.__name__} does not fit it: {error}.") from error
    bound.apply_defaults()
    blocks = grid(dict(bound.arguments)) if callable(grid) else grid
    x, y, z = (*(int(size) for size in blocks), 1, 1)[:3]
    arguments = {name: _frozen(value) for name, value in bound.arguments.items()}
    return Launch(kernel, (x, y, z), arguments, options)


def _frozen(value: Any) -> Any:
    if hasattr(value, "untyped_storage"):
        return TensorArgument.of(value)
    if hasattr(value, "block_shape"):
        return DescriptorArgument(
            TensorArgument.of(value.base),
            tuple(value.shape),
            tuple(value.strides),
            tuple(value.block_shape),
            value.padding,
        )
    return value
