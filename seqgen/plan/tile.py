"""A piece of Triton text that stands for a value, and what is known about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

ATOM, POWER, UNARY, PRODUCT, SUM, LOOSE = 6, 5, 4, 3, 2, 0
BINDING = {"mul": PRODUCT, "div": PRODUCT, "add": SUM, "sub": SUM}
"""How strongly operators bind, from a name or call down to a comparison."""


@dataclass(frozen=True)
class Tile:
    """Triton text of a value.

    Attributes:
        dims: tile dimensions the text has; those it lacks it is constant along.
        pad: for a dimension, the number that all lanes beyond the true size hold, if known.
        binding: how strongly the outermost operator of the text binds.
        host: whether it is a Python number or constexpr, not a tensor.
        truth: whether it is a truth value and no number.
        number: its value if it is a literal.
    """

    text: str
    dims: tuple[str, ...] = ()
    pad: Mapping[str, float] = field(default_factory=dict)
    binding: int = ATOM
    host: bool = False
    truth: bool = False
    number: float | None = None

    def inside(self, binding: int) -> str:
        """The text as an operand of an operator that binds this strongly."""
        return self.text if self.binding >= binding else f"({self.text})"

    def known(self, dim: str) -> float | None:
        """What its lanes beyond the true size of ``dim`` hold, if known."""
        return self.pad.get(dim) if dim in self.dims else self.number
