"""How the axes of a token program map to one Triton program.

Coupled axes are whole dimensions of a tile, padded to a power of two. Of the axes that programs
may split, one (the innermost of the states' layout) is cut into blocks, the knob ``B<axis>``; the
others are one index per program. A grouped child splits into its parent and an index within the
group, so that a block never leaves its group and a parent value is one entry per program.
Sequences are the outermost factor of the grid.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from seqgen.ir.recurrence import Axis, Output, Recurrence, State
from seqgen.passes.axes import AxisPlan, split_axes

TILE_LIMIT = 16384
"""fp32 elements that one tile of a program may have; more do not fit in registers."""


@dataclass(frozen=True)
class Dim:
    """One axis as a program sees it; every text is Triton over names of the kernel.

    Attributes:
        size: the true size (``"K"``).
        length: extent of the tile along this axis (``"PK"``, ``"BV"``); empty for an axis of
            which the program has one index.
        index: name of the index into the whole axis: a vector for a tile, else a scalar.
        mask: name of the truth vector of lanes that exist; empty without a tile.
        exact: name of the constexpr that says that all lanes exist.
        lines: definitions of ``index``, ``mask`` and ``exact``.
        block: whether programs share the axis out in blocks.
    """

    axis: str
    size: str
    length: str = ""
    index: str = ""
    mask: str = ""
    exact: str = ""
    lines: tuple[str, ...] = ()
    block: bool = False


@dataclass(frozen=True)
class Factor:
    """One factor of the grid: ``count`` (Triton and Python text) programs along ``axis``."""

    axis: str
    name: str
    count: str


@dataclass(frozen=True)
class Tiling:
    """Tile dimensions in order (of memory, innermost last), scalar axes, and the grid.

    ``relations`` maps a child axis to its parent, where both are in the program.
    """

    dims: tuple[Dim, ...]
    scalars: tuple[Dim, ...] = ()
    factors: tuple[Factor, ...] = ()
    relations: tuple[tuple[str, str], ...] = ()
    knobs: tuple[tuple[str, str, str], ...] = ()
    """(knob name, axis, text of the extent it shares out), for each block dimension."""

    def dim(self, axis: str) -> Dim | None:
        """The tile dimension of ``axis``, if it has one."""
        return next((dim for dim in self.dims if dim.axis == axis), None)

    def any(self, axis: str) -> Dim:
        """``axis`` as tile dimension or scalar."""
        return next(dim for dim in (*self.dims, *self.scalars) if dim.axis == axis)

    def has(self, axis: str) -> bool:
        """Whether the program has ``axis`` (micro-step axes it has not)."""
        return any(dim.axis == axis for dim in (*self.dims, *self.scalars))

    def tile(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """Tile dimensions that a value with ``axes`` can have, in order."""
        return tuple(dim.axis for dim in self.dims if dim.axis in axes)

    def missing(self, axes: tuple[str, ...]) -> tuple[Factor, ...]:
        """Factors of the grid that a tensor with ``axes`` does not depend on."""
        have = set(axes) | {parent for child, parent in self.relations if child in axes}
        return tuple(factor for factor in self.factors if factor.axis not in have)

    def size(self, axes: tuple[str, ...]) -> str:
        """Number of entries of a tensor with ``axes``, as an atom."""
        sizes = [self.any(axis).size if self.has(axis) else axis for axis in axes]
        return f"({' * '.join(sizes)})" if len(sizes) > 1 else "".join(sizes) or "1"

    def offset(self, axes: tuple[str, ...], layout: tuple[str, ...]) -> str:
        """Offsets of this program's entries in a tensor with ``layout`` (memory order).

        Axes of the layout that are not among ``axes`` count as index 0.
        """
        dims, terms = self.tile(axes), []
        for axis in axes:
            text = self.spread(self.any(axis).index, self.tile((axis,)), dims)
            inner = layout[layout.index(axis) + 1 :]
            terms.append(f"{text} * {self.size(inner)}" if inner else text)
        return " + ".join(terms) or "0"

    def mask(self, axes: tuple[str, ...]) -> tuple[str, str]:
        """(mask, constexpr "everything exists") of a tile; ``("True", "True")`` for scalars."""
        dims = self.tile(axes)
        masks = [self.spread(self.any(axis).mask, (axis,), dims) for axis in dims]
        exact = [self.any(axis).exact for axis in dims]
        return " & ".join(masks) or "True", " and ".join(exact) or "True"

    def shape(self, dims: tuple[str, ...]) -> str:
        """``[PK, BV]``."""
        return "[" + ", ".join(self.any(axis).length for axis in dims) + "]"

    def spread(self, text: str, dims: tuple[str, ...], target: tuple[str, ...]) -> str:
        """``text`` (an atom) with an axis of length one for each dimension it lacks."""
        if not dims or dims == target:
            return text
        places = (":" if axis in dims else "None" for axis in target)
        return f"{text}[{', '.join(places)}]"

    def linear(self, dims: tuple[str, ...]) -> str:
        """Row-major offsets inside a tile of its own, padding included."""
        terms = []
        for i, axis in enumerate(dims):
            text = self.spread(f"tl.arange(0, {self.any(axis).length})", (axis,), dims)
            inner = [self.any(other).length for other in dims[i + 1 :]]
            stride = f"({' * '.join(inner)})" if len(inner) > 1 else "".join(inner)
            terms.append(f"{text} * {stride}" if stride else text)
        return " + ".join(terms) or "0"

    def volume(self, dims: tuple[str, ...]) -> str:
        """Number of lanes of a tile with ``dims``, padding included."""
        return " * ".join(self.any(axis).length for axis in dims) or "1"


def atom(count: str) -> str:
    """A count as an operand of ``*``, ``%`` or ``//``."""
    closed = count.isidentifier() or (count.startswith("(") and count.find(")") == len(count) - 1)
    return count if closed else f"({count})"


def split_index(factors: tuple[Factor, ...]) -> tuple[str, str]:
    """(index, count) of a program among those that differ in ``factors``."""
    if not factors:
        return "0", "1"
    index = factors[0].name
    for i, factor in enumerate(factors[1:]):
        index = f"({index})" if i else index
        index = f"{index} * {atom(factor.count)} + {factor.name}"
    return index, " * ".join(atom(factor.count) for factor in factors)


def plan_tiling(recurrence: Recurrence, axes: AxisPlan | None = None) -> Tiling:
    """The tiling of a whole token program."""
    axes = split_axes(recurrence) if axes is None else axes
    used = _used_axes(recurrence)
    parents = {parent: child for parent, child in axes.parents if parent in used}
    block = _block_axis(recurrence, axes, parents)
    order = _memory_order(recurrence, block)
    dims, scalars, factors, relations, knobs = [], [], [], [], []
    for name in order:
        if name in axes.coupled:
            dims.append(_whole(name))
    for name in parents:
        scalars.append(Dim(name, name, index=f"i_{name}"))
        factors.append(Factor(name, f"i_{name}", name))
    for name in axes.grid:
        parent = next((p for p, child in parents.items() if child == name), None)
        extent = name if parent is None else f"({name} // {parent})"
        if parent is not None:
            relations.append((name, parent))
        if name == block:
            dims.append(_block(name, parent, extent))
            blocks = f"({extent} + B{name} - 1) // B{name}"
            factors.append(Factor(name, f"b_{name}", blocks))
            knobs.append((f"B{name}", name, extent))
        elif parent is None:
            scalars.append(Dim(name, name, index=f"i_{name}"))
            factors.append(Factor(name, f"i_{name}", name))
        else:
            line = f"i_{name} = i_{parent} * {extent} + j_{name}"
            scalars.append(Dim(name, name, index=f"i_{name}", lines=(line,)))
            factors.append(Factor(name, f"j_{name}", extent))
    for child in axes.coupled:
        parent = recurrence.axis(child).parent
        if parent is not None and parent in axes.coupled:
            relations.append((child, parent))
    dims.sort(key=lambda dim: order.index(dim.axis))
    # Neighbouring programs share what they load: the block varies fastest.
    factors.sort(key=lambda factor: factor.axis == block)
    return Tiling(tuple(dims), tuple(scalars), tuple(factors), tuple(relations), tuple(knobs))


def _whole(name: str) -> Dim:
    index, mask, exact = f"o_{name}", f"m_{name}", f"EXACT_{name}"
    lines = (
        f"{index} = tl.arange(0, P{name})",
        f"{mask} = {index} < {name}",
        f"{exact}: tl.constexpr = {name} == P{name}",
    )
    return Dim(name, name, f"P{name}", index, mask, exact, lines)


def _block(name: str, parent: str | None, extent: str) -> Dim:
    index, mask, exact = f"o_{name}", f"m_{name}", f"EXACT_{name}"
    start = f"{index} = b_{name} * B{name} + tl.arange(0, B{name})"
    lines = [start, f"{mask} = {index} < {extent}"]
    if parent is not None:
        lines.append(f"{index} += i_{parent} * {extent}")
    lines.append(f"{exact}: tl.constexpr = {extent} % B{name} == 0")
    return Dim(name, name, f"B{name}", index, mask, exact, tuple(lines), block=True)


def _used_axes(recurrence: Recurrence) -> set[str]:
    layouts = [tensor.axes for tensor in recurrence.tensors]
    layouts += [state.axes for state in recurrence.states]
    layouts += [output.axes for output in recurrence.outputs]
    return {axis for layout in layouts for axis in layout}


def elements(axes: tuple[Axis, ...] | list[Axis]) -> int:
    """Padded elements at default sizes."""
    return math.prod(1 << max(axis.size - 1, 0).bit_length() for axis in axes)


def _block_axis(recurrence: Recurrence, axes: AxisPlan, parents: dict[str, str]) -> str | None:
    """The axis to cut into blocks, or None if one index of each axis fills a program.

    Behind the coupled axes in memory lies the axis with neighbouring addresses: it is cut. One
    that lies before them (heads) is cut only if the coupled tile alone is too small for a warp,
    and no state has one behind: programs of the other indices would repeat what lacks the axis.
    """
    layouts = [[s.axes for s in recurrence.states], [o.axes for o in recurrence.outputs]]
    heads: set[str] = set()
    for group in layouts:
        best: tuple[bool, int, str] | None = None
        for layout in group:
            free = [name for name in layout if name in axes.grid and name not in parents]
            free = [name for name in free if name not in heads]
            coupled = [a for a in layout if a in axes.coupled]
            if not free:
                continue
            name = free[-1]
            before = any(layout.index(a) > layout.index(name) for a in coupled)
            if before and elements([recurrence.axis(a) for a in coupled]) > 64:
                heads.update(free)
                continue
            size = elements([recurrence.axis(a) for a in layout])
            if best is None or (not before, size) > best[:2]:
                best = (not before, size, name)
        if best is not None and best[2] not in heads:
            return best[2]
    return None


def _memory_order(recurrence: Recurrence, block: str | None) -> list[str]:
    """All axes; those of the largest state last and in its order, one with the block if any."""
    owners: list[State | Output] = list(recurrence.states) or list(recurrence.outputs)
    owners = [owner for owner in owners if block in owner.axes] or owners
    main = max(owners, key=lambda o: elements([recurrence.axis(a) for a in o.axes]))
    rest = [axis.name for axis in recurrence.axes if axis.name not in main.axes]
    return [*rest, *main.axes]
