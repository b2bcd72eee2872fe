"""Sizes that are raced."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shape:
    """Sizes of a race: batch, tokens, heads, and head dimension (K = V = D)."""

    B: int
    T: int
    H: int
    D: int

    @classmethod
    def parse(cls, text: str) -> Shape:
        """``2x16384x16x128``, in the order batch, tokens, heads, head dimension."""
        sizes = [int(part) for part in text.split("x") if part.isdecimal()]
        if text.count("x") != 3 or len(sizes) != 4 or min(sizes) < 1:
            raise ValueError(f"{text!r} is not of the form BxTxHxD, as in 2x16384x16x128")
        return cls(*sizes)

    def __str__(self) -> str:
        return f"{self.B}x{self.T}x{self.H}x{self.D}"


FLA_SIX = tuple(
    Shape.parse(text)
    for text in (
        "2x16384x16x128",
        "1x8192x96x128",
        "4x2048x16x128",
        "4x4096x64x128",
        "8x2048x32x256",
        "8x1024x8x64",
    )
)
SHAPE_SETS = {
    "six": FLA_SIX,
    "one": FLA_SIX[:1],
    "sweep": tuple(Shape(32768 // t, t, 16, 128) for t in (512 << i for i in range(7))),
}
