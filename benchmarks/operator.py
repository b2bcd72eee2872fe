"""What a race of one operator needs: inputs, truth, our spec and the peers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.inputs import Inputs
from benchmarks.shapes import Shape

Call = Callable[[Mapping[str, Tensor]], Tensor]
"""Takes the inputs of an operator by name, gives its output."""


@dataclass(frozen=True)
class Peer:
    """An existing implementation of the operator.

    ``load`` imports it and gives the function to call; an ImportError means it is not installed.
    ``note`` tells the reader of the table what the number stands for.
    """

    name: str
    load: Callable[[], Call]
    configs: int
    """How many kernel configurations its autotuner tries on a first call, for the plan's times."""
    note: str = ""


@dataclass(frozen=True)
class Operator:
    """One row group of the tables."""

    name: str
    spec: str
    """Spec file below the repository's root."""
    make: Callable[[Shape, torch.dtype, torch.Generator], Inputs]
    truth: Call
    """The output in float64, from float64 inputs."""
    peers: tuple[Peer, ...]
    frozen: tuple[str, ...] = ()
    """Inputs without gradient."""

    def inputs(self, shape: Shape, dtype: torch.dtype, device: str, seed: int) -> Inputs:
        """Fresh inputs as leaves of autograd; the same seed gives the same numbers."""
        generator = torch.Generator(device).manual_seed(seed)
        made = self.make(shape, dtype, generator)
        return {
            name: x.detach().contiguous().requires_grad_(name not in self.frozen)
            for name, x in made.items()
        }


def ours(function: Callable[..., tuple[Tensor, object]]) -> Call:
    """The calling convention of a generated operator: every input by name, ``(o, state)`` back."""
    return lambda inputs: function(**inputs)[0]


def fla(module: str, function: str, **fixed: object) -> Callable[[], Call]:
    """Loads ``function`` of ``fla.ops.<module>``, to be called with all inputs and ``fixed``."""

    def load() -> Call:
        from benchmarks.peer_libraries import fla_operator

        operator = fla_operator(module, function)
        return lambda inputs: operator(**inputs, **fixed)[0]

    return load


def scaled(x: Tensor) -> Tensor:
    """Queries by the root of their size, as all these operators have it."""
    return x * x.shape[-1] ** -0.5


WRONG_AT_64 = "FLA's own guard is lifted; on Hopper with Triton < 3.7.1 it is wrong at D = 64"
