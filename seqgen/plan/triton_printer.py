"""Expressions of the IR as Triton text over tiles.

A ``Tile`` is a piece of text with the tile dimensions its value has, in the order of the tiling
(a leading "T" for blocks of tokens is one of them). Operands are broadcast explicitly. Lanes
beyond the true size of an axis hold anything, except where ``Tile.pad`` knows better; reductions
mask them unless they are known to be neutral.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from seqgen.errors import SpecError
from seqgen.ir.expr import (
    Apply,
    Detach,
    Expand,
    Expr,
    GroupSum,
    IfPresent,
    Index,
    Number,
    Pair,
    Pick,
    Reduce,
    Ref,
    Rename,
    Size,
)
from seqgen.ir.recurrence import Assignment
from seqgen.plan.tile import ATOM, BINDING, LOOSE, POWER, PRODUCT, SUM, UNARY, Tile
from seqgen.plan.tiling import Tiling
from seqgen.plan.triton_operations import CALLS, COMPARE, INFIX, constant

Key = tuple[str, tuple[tuple[str, int], ...]]


@dataclass
class Printer:
    """Prints expressions and assignments in one scope of a kernel.

    ``values`` maps ``(Ref.name, Ref.at)`` to tiles; ``names`` gives values whose name the kernel
    uses itself another one. ``helpers`` collects the functions the text calls.
    """

    tiling: Tiling
    values: dict[Key, Tile] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    helpers: set[str] = field(default_factory=set)

    # Values ---------------------------------------------------------------------------------

    def define(self, name: str, tile: Tile, at: tuple[tuple[str, int], ...] = ()) -> None:
        """Makes ``name`` mean ``tile`` from here on."""
        self.values[name, at] = tile

    def name(self, value: str) -> str:
        """The variable of a value."""
        return self.names.get(value, value)

    def leaf(self, name: str, axes: tuple[str, ...], pad: float | None = 0.0) -> Tile:
        """A whole tile in the variable of ``name``, e.g. freshly loaded."""
        dims = self.tiling.tile(axes)
        return Tile(self.name(name), dims, {} if pad is None else dict.fromkeys(dims, pad))

    def assignments(
        self, block: Iterable[Assignment], full: Mapping[str, tuple[str, ...]]
    ) -> list[str]:
        """Lines for a block; ``full`` gives the axes of values that must have them all."""
        lines, equation = [], ""
        for assignment in block:
            if assignment.equation and assignment.equation != equation:
                lines.append(f"# {assignment.equation}")
                equation = assignment.equation
            lines.append(self.assign(assignment.name, assignment.value, full.get(assignment.name)))
        return lines

    def assign(self, name: str, value: Expr, axes: tuple[str, ...] | None = None) -> str:
        """One line ``name = value``; the tile has all of ``axes`` if given."""
        tile = self.numeric(self.print(value))
        dims = tile.dims if axes is None else self.tiling.tile(axes)
        text = self.lift(tile, dims).text
        pad = {dim: tile.pad[dim] for dim in tile.dims if dim in tile.pad}
        if tile.number is not None:
            pad = dict.fromkeys(dims, tile.number)
        self.define(name, Tile(self.name(name), dims, pad))
        return f"{self.name(name)} = {text}"

    def lift(self, tile: Tile, dims: tuple[str, ...]) -> Tile:
        """The same value as a tensor with exactly ``dims``."""
        if tile.dims == dims and not tile.host:
            return tile
        if not dims:
            return replace(
                tile, text=f"tl.full([], {tile.text}, tl.float32)", host=False, binding=ATOM
            )
        shape = self.tiling.shape(dims)
        if tile.host:
            text = f"tl.full({shape}, {tile.text}, tl.float32)"
        else:
            spread = self.tiling.spread(tile.inside(ATOM), tile.dims, dims)
            text = f"tl.broadcast_to({spread}, {shape})"
        pad = {dim: value for dim in dims if (value := tile.known(dim)) is not None}
        return Tile(text, dims, pad, truth=tile.truth)

    def numeric(self, tile: Tile) -> Tile:
        """A truth value as 1.0 or 0.0."""
        if not tile.truth:
            return tile
        return replace(tile, text=f"tl.where({tile.text}, 1.0, 0.0)", binding=ATOM, truth=False)

    def tensor(self, tile: Tile) -> Tile:
        """A number as a scalar tensor, for functions that take no Python numbers."""
        return self.lift(tile, ()) if tile.host else tile

    def helper(self, name: str) -> str:
        self.helpers.add(name)
        return name

    # Expressions ----------------------------------------------------------------------------

    def print(self, expr: Expr) -> Tile:
        """The tile of ``expr``."""
        if isinstance(expr, Number):
            return self.number(expr.value)
        if isinstance(expr, Size):
            return Tile(self.tiling.size((expr.axis,)), host=True)
        if isinstance(expr, Index):
            dim = self.tiling.any(expr.axis)
            return Tile(f"{dim.index}.to(tl.float32)", self.tiling.tile((expr.axis,)))
        if isinstance(expr, Ref):
            return self.values[expr.name, expr.at]
        if isinstance(expr, Apply):
            return self.apply(expr)
        if isinstance(expr, Detach):
            return self.print(expr.arg)
        if isinstance(expr, IfPresent):
            return self.if_present(expr)
        if isinstance(expr, Reduce):
            return self.reduce(expr.op, self.print(expr.arg), expr.axis)
        if isinstance(expr, Rename):
            return self.rename(expr)
        if isinstance(expr, Expand):
            return self.expand(expr)
        if isinstance(expr, GroupSum):
            return self.group_sum(expr)
        if isinstance(expr, Pick):
            return self.pick(expr)
        assert isinstance(expr, Pair), expr
        return self.pair(expr)

    def number(self, value: float) -> Tile:
        if math.isinf(value):
            return Tile(f'float("{value}")', host=True, number=value)
        text = repr(value)
        return Tile(text, binding=UNARY if value < 0 else ATOM, host=True, number=value)

    def union(self, tiles: Iterable[Tile]) -> tuple[str, ...]:
        have = {dim for tile in tiles for dim in tile.dims}
        return tuple(dim.axis for dim in self.tiling.dims if dim.axis in have)

    def operand(self, tile: Tile, dims: tuple[str, ...], binding: int) -> str:
        """``tile`` broadcast to meet others with ``dims``."""
        if not tile.dims or tile.dims == dims:
            return tile.inside(binding)
        return self.tiling.spread(tile.inside(ATOM), tile.dims, dims)

    def apply(self, expr: Apply) -> Tile:
        tiles = [self.print(arg) for arg in expr.args]
        op, dims = expr.op, self.union(tiles)
        if op in ("and", "or", "not"):
            return self.logic(op, tiles, dims)
        if op == "where":
            return self.where(tiles, dims)
        tiles = [self.numeric(tile) for tile in tiles]
        pad = self.pad(op, tiles, dims)
        host = all(tile.host for tile in tiles)
        if op == "pow":
            return replace(self.power(tiles, dims, host), pad=pad)
        if op == "neg":
            text = f"-{tiles[0].inside(UNARY)}"
            return Tile(text, dims, pad, UNARY, host)
        if op in INFIX:
            binding = BINDING[op]
            left = self.operand(tiles[0], dims, binding)
            right = self.operand(tiles[1], dims, binding + (op in ("sub", "div")))
            return Tile(f"{left} {INFIX[op]} {right}", dims, pad, binding, host)
        if op in COMPARE:
            left, right = (self.operand(self.tensor(tile), dims, ATOM) for tile in tiles)
            return Tile(f"{left} {COMPARE[op]} {right}", dims, pad, LOOSE, truth=True)
        function = CALLS[op]
        if not function.startswith("tl."):
            self.helper(function)
        args = [self.operand(self.tensor(tile), dims, LOOSE) for tile in tiles]
        return Tile(f"{function}({', '.join(args)})", dims, pad)

    def pad(self, op: str, tiles: list[Tile], dims: tuple[str, ...]) -> dict[str, float]:
        """What is known of the lanes beyond the true sizes after a pointwise operation."""
        known = {}
        for dim in dims:
            values = [tile.known(dim) for tile in tiles]
            if (result := constant(op, values)) is not None:
                known[dim] = result
            elif 0.0 in values and op in ("mul", "div"):
                # 0 * x where x is no padding: as good as 0 (the real lanes read x as well).
                other = tiles[1 - values.index(0.0)]
                if dim not in other.dims and (op == "mul" or values[0] == 0.0):
                    known[dim] = 0.0
        return known

    def truth(self, tile: Tile) -> Tile:
        if tile.truth:
            return tile
        return replace(tile, text=f"{tile.inside(ATOM)} != 0.0", binding=LOOSE, truth=True, pad={})

    def logic(self, op: str, tiles: list[Tile], dims: tuple[str, ...]) -> Tile:
        texts = [self.operand(self.truth(self.tensor(tile)), dims, ATOM) for tile in tiles]
        if op == "not":
            return Tile(f"{texts[0]} == 0", dims, binding=LOOSE, truth=True)
        sign = {"and": "&", "or": "|"}[op]
        return Tile(f"{texts[0]} {sign} {texts[1]}", dims, binding=LOOSE, truth=True)

    def where(self, tiles: list[Tile], dims: tuple[str, ...]) -> Tile:
        chosen = [self.numeric(tile) for tile in tiles[1:]]
        condition = self.operand(self.truth(self.tensor(tiles[0])), dims, LOOSE)
        if all(tile.host for tile in chosen):
            chosen[0] = self.tensor(chosen[0])
        first, second = (self.operand(tile, dims, LOOSE) for tile in chosen)
        pad = {}
        for dim in dims:
            a, b = (tile.known(dim) for tile in chosen)
            if a is not None and a == b:
                pad[dim] = a
        return Tile(f"tl.where({condition}, {first}, {second})", dims, pad)

    def power(self, tiles: list[Tile], dims: tuple[str, ...], host: bool) -> Tile:
        base, exponent = tiles
        if host:
            text = f"{base.inside(ATOM)} ** {exponent.inside(UNARY)}"
            return Tile(text, dims, {}, POWER, host=True)
        if exponent.number == 0.5:
            return Tile(f"tl.sqrt_rn({self.operand(base, dims, LOOSE)})", dims)
        if exponent.number == -0.5:
            return Tile(f"tl.rsqrt({self.operand(base, dims, LOOSE)})", dims)
        if exponent.number == 2.0 and base.binding == ATOM:
            text = self.operand(base, dims, ATOM)
            return Tile(f"{text} * {text}", dims, binding=PRODUCT)
        args = [self.operand(self.tensor(tile), dims, LOOSE) for tile in tiles]
        return Tile(f"{self.helper('power')}({', '.join(args)})", dims)

    def if_present(self, expr: IfPresent) -> Tile:
        """Decided when the kernel is compiled: only the branch that is taken needs its names."""
        then, other = (self.numeric(self.print(branch)) for branch in (expr.then, expr.other))
        dims = self.union((then, other))
        pad = {
            dim: value
            for dim in dims
            if (value := then.known(dim)) is not None and value == other.known(dim)
        }
        first, second = (self.lift(tile, dims).text for tile in (then, other))
        return Tile(f"({first} if {present(expr.name)} else {second})", dims, pad)

    # Axes -----------------------------------------------------------------------------------

    def keep(self, tile: Tile, axis: str, fill: float) -> str:
        """``tile`` with ``fill`` in the lanes beyond the true size of ``axis``."""
        if tile.pad.get(axis) == fill:
            return tile.text
        dim = self.tiling.any(axis)
        mask = self.tiling.spread(dim.mask, (axis,), tile.dims)
        text = self.number(fill).text
        return f"{self.helper('keep')}({tile.text}, {mask}, {dim.exact}, {text})"

    def reduce(self, op: str, tile: Tile, axis: str) -> Tile:
        """Over a tile dimension; along the grid a program holds its own part of the sum."""
        tile = self.numeric(tile)
        if self.tiling.dim(axis) is None:
            return tile
        dims = self.tiling.tile((*tile.dims, axis))
        tile = self.lift(tile, dims)
        function, fill = {"sum": ("tl.sum", 0.0), "amax": ("tl.max", -math.inf)}[op]
        rest = tuple(dim for dim in dims if dim != axis)
        pad = {dim: 0.0 for dim in rest if op == "sum" and tile.pad.get(dim) == 0.0}
        return Tile(
            f"{function}({self.keep(tile, axis, fill)}, axis={dims.index(axis)})", rest, pad
        )

    def rename(self, expr: Rename) -> Tile:
        tile = self.numeric(self.print(expr.arg))
        if expr.old not in tile.dims:
            return tile
        if self.tiling.dim(expr.new) is None:
            raise SpecError(
                f"'rename' from '{expr.old}' to '{expr.new}' moves numbers between programs: "
                "one of the axes is split over programs.",
                hint="Use both names in one reduction, or keep the value in a state.",
            )
        moved = tuple(expr.new if dim == expr.old else dim for dim in tile.dims)
        dims = self.tiling.tile(moved)
        pad = {expr.new if dim == expr.old else dim: value for dim, value in tile.pad.items()}
        if moved == dims:
            return replace(tile, dims=dims, pad=pad)
        order = ", ".join(str(moved.index(dim)) for dim in dims)
        return Tile(f"tl.permute({tile.text}, [{order}])", dims, pad)

    def expand(self, expr: Expand) -> Tile:
        tile = self.print(expr.arg)
        if expr.parent not in tile.dims:
            return tile  # one entry per program: the same for all children that it holds
        tile = self.numeric(tile)
        parent, child = self.tiling.any(expr.parent), self.tiling.any(expr.child)
        group = f"({child.size} // {parent.size})"
        return self.select(tile, expr.parent, expr.child, f"{{new}} // {group} == {{old}}")

    def group_sum(self, expr: GroupSum) -> Tile:
        tile = self.numeric(self.print(expr.arg))
        if self.tiling.dim(expr.child) is None:
            return tile
        if self.tiling.dim(expr.parent) is None:
            return self.reduce("sum", tile, expr.child)
        tile = self.lift(tile, self.tiling.tile((*tile.dims, expr.child)))
        parent, child = self.tiling.any(expr.parent), self.tiling.any(expr.child)
        group = f"({child.size} // {parent.size})"
        return self.select(tile, expr.child, expr.parent, f"{{old}} // {group} == {{new}}")

    def select(self, tile: Tile, old: str, new: str, test: str) -> Tile:
        """Sums entries along ``old`` into those along ``new`` for which ``test`` holds."""
        both = self.tiling.tile((*tile.dims, new))
        dims = tuple(dim for dim in both if dim != old)
        ends = [(name, self.tiling.any(name).index) for name in (old, new)]
        texts = {name: self.tiling.spread(index, (name,), both) for name, index in ends}
        condition = test.format(old=texts[old], new=texts[new])
        spread = self.tiling.spread(tile.inside(ATOM), tile.dims, both)
        text = f"tl.sum(tl.where({condition}, {spread}, 0.0), axis={both.index(old)})"
        pad = {dim: 0.0 for dim in dims if dim != new and tile.pad.get(dim) == 0.0}
        return Tile(text, dims, pad)

    def pick(self, expr: Pick) -> Tile:
        tile = self.numeric(self.print(expr.arg))
        tile = self.lift(tile, self.tiling.tile((*tile.dims, expr.axis)))
        size = self.tiling.any(expr.half).size
        place = {
            "adjacent": f"2 * {{new}} + {expr.part}",
            "halves": f"{{new}} + {expr.part} * {size}",
        }
        return self.select(tile, expr.axis, expr.half, f"{{old}} == {place[expr.pairs]}")

    def pair(self, expr: Pair) -> Tile:
        parts = []
        size = self.tiling.any(expr.half).size
        for part, arg in enumerate((expr.first, expr.second)):
            tile = self.numeric(self.print(arg))
            tile = self.lift(tile, self.tiling.tile((*tile.dims, expr.half)))
            # Lanes beyond the half must not reach a place that exists.
            tile = replace(tile, text=self.keep(tile, expr.half, 0.0), binding=LOOSE)
            place = {"adjacent": f"2 * {{old}} + {part}", "halves": f"{{old}} + {part} * {size}"}
            parts.append(self.select(tile, expr.half, expr.axis, f"{{new}} == {place[expr.pairs]}"))
        dims = self.union(parts)
        first, second = (self.operand(part, dims, SUM) for part in parts)
        return Tile(f"{first} + {second}", dims, self.pad("add", parts, dims), SUM)


def present(name: str) -> str:
    """The constexpr that says whether an optional tensor was given."""
    return f"HAS_{name.upper()}"
