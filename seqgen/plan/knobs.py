"""What may be tuned in one kernel: the contract between the plan and the tuner.

The plan declares a ``KernelSpace`` per kernel for given tile sizes and dtype. The tuner, and
whoever reads a configuration from the tuning store, accepts nothing outside it: a stored record
can only ever select one of the values that the plan itself has listed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Literal

KnobValue = int | bool | str
"""Strings are names out of a short list (``"tma"``), never text that is pasted anywhere."""

Config = Mapping[str, KnobValue]
"""One choice for every knob of a kernel: ``{"BK": 64, "num_warps": 4, ...}``."""


def always_legal(config: Config) -> bool:
    """The predicate of a space without forbidden combinations."""
    return True


@dataclass(frozen=True)
class Knob:
    """A tunable of one kernel.

    ``values`` are ordered so that neighbours in the tuple behave alike (16, 32, 64, ...): the
    search walks along them.
    """

    name: str
    values: tuple[KnobValue, ...]


@dataclass(frozen=True)
class KernelSpace:
    """The knobs of one kernel at one set of tile sizes and one dtype.

    Args:
        kernel: name as in ``launch_<kernel>`` and ``CONFIGS``; ``"operator"`` for the knobs that
            all kernels of an operator share.
        role: where the kernel runs: ``"fwd"``, ``"bwd"`` or ``"step"``.
        knobs: the tunables, in the order in which the generated module writes them.
        default: the configuration that needs no measurement; always legal, always raced.
        legal: says whether a combination may be tried (cheap, no compilation).
    """

    kernel: str
    role: Literal["fwd", "bwd", "step"]
    knobs: tuple[Knob, ...]
    default: Config
    legal: Callable[[Config], bool] = always_legal

    def contains(self, config: Config) -> bool:
        """Whether ``config`` gives each knob one of its values (same type) and is legal."""
        if set(config) != {knob.name for knob in self.knobs}:
            return False
        for knob in self.knobs:
            value = config[knob.name]
            if not any(type(value) is type(v) and value == v for v in knob.values):
                return False
        return self.legal(config)

    def configs(self) -> Iterator[dict[str, KnobValue]]:
        """Every legal configuration, the last knob varying fastest."""
        names = [knob.name for knob in self.knobs]
        for values in product(*(knob.values for knob in self.knobs)):
            config = dict(zip(names, values, strict=True))
            if self.legal(config):
                yield config
