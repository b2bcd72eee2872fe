"""The tensors over the key axis that kernels of the vector schedules read, as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Lines = tuple[str, ...]


@dataclass(frozen=True)
class Operands:
    """How templates name them: queries, keys, gates and what else weighs the rows of a chunk.

    Attributes:
        names: launcher text: all of them.
        parameters: of kernels that read them; ``heads`` of their numbers of heads.
        offsets: Triton lines: pointers to the first row of the chunk.
        arguments: launcher lines behind ``parameters``; ``values`` behind ``heads``.
    """

    names: str
    parameters: Lines
    heads: Lines
    offsets: Lines
    arguments: Lines
    values: Lines


def first_row(letter: str) -> str:
    """Triton text: where a tensor has the first row of the chunk."""
    heads = f"H{letter.upper()}"
    return f"(first * {heads} + h // (H // {heads})) * K"


def row_tile(letter: str, stride: str, moved: bool = False) -> str:
    """A Triton line that loads the tile of a tensor, from its first row if the pointer is not."""
    pointer = f"{letter}_ptr + {first_row(letter)}" if moved else f"{letter}_ptr"
    return f"{letter} = load_rows({pointer}, rows, valid, r_k, {stride}, K, EXACT)"


def plan_operands(rows: Mapping[str, str], others: Sequence[tuple[str, str]] = ()) -> Operands:
    """Operands from what their comments say.

    Args:
        rows: by letter, tensors [B, T, heads, K].
        others: names and comments of tensors that kernels place themselves.
    """
    names = [*rows, *(name for name, _ in others)]
    notes = [*rows.items(), *others]
    return Operands(
        names=", ".join(names),
        parameters=tuple(f"{name}_ptr,  # {note}" for name, note in notes),
        heads=tuple(f"H{x.upper()}: tl.constexpr," for x in rows),
        offsets=tuple(f"{x}_ptr += {first_row(x)}" for x in rows),
        arguments=tuple(f"{name}," for name in names),
        values=tuple(f"H{x.upper()}={x}.shape[2]," for x in rows),
    )
