"""Tiles and axes: broadcasting, masking, reductions, and moves between axes, as Triton text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from seqgen.errors import SpecError
from seqgen.ir.expr import Expand, Expr, GroupSum, Pair, Pick, Rename
from seqgen.plan.tile import ATOM, LOOSE, UNARY, Tile
from seqgen.plan.tiling import Tiling
from seqgen.plan.triton_operations import constant


@dataclass
class AxisPrinter:
    """The part of the printer that knows about tile dimensions.

    ``helpers`` collects the functions that the text calls.
    """

    tiling: Tiling
    helpers: set[str] = field(default_factory=set, kw_only=True)

    def print(self, expr: Expr) -> Tile:
        """The tile of ``expr``."""
        raise NotImplementedError

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

    def helper(self, name: str) -> str:
        self.helpers.add(name)
        return name

    def number(self, value: float) -> Tile:
        if math.isinf(value):
            return Tile(f'float("{value}")', host=True, number=value)
        text = repr(value)
        return Tile(text, binding=UNARY if value < 0 else ATOM, host=True, number=value)

    def union(self, tiles: Iterable[Tile]) -> tuple[str, ...]:
        have = {dim for tile in tiles for dim in tile.dims}
        return tuple(dim.axis for dim in self.tiling.dims if dim.axis in have)

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
        return Tile(self.permute(tile.text, moved, dims), dims, pad)

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
        """Adjacent pairs are split in place; halves too where no lane is padding."""
        tile = self.numeric(self.print(expr.arg))
        tile = self.lift(tile, self.tiling.tile((*tile.dims, expr.axis)))
        rest = tuple(dim for dim in tile.dims if dim != expr.axis)
        half = self.tiling.any(expr.half)
        last = self.permute(tile.text, tile.dims, (*rest, expr.axis))
        sizes = [self.tiling.any(dim).length for dim in rest]
        if expr.pairs == "adjacent":
            pairs = f"tl.reshape({last}, [{', '.join([*sizes, half.length, '2'])}])"
        else:
            pairs = f"tl.reshape({last}, [{', '.join([*sizes, '2', half.length])}])"
            order = [*range(len(rest)), len(rest) + 1, len(rest)]
            pairs = f"tl.permute({pairs}, {order})"
        dims = self.tiling.tile((*rest, expr.half))
        text = self.permute(f"tl.split({pairs})[{expr.part}]", (*rest, expr.half), dims)
        if expr.pairs == "adjacent":
            pad = {expr.half if dim == expr.axis else dim: v for dim, v in tile.pad.items()}
            return Tile(text, dims, pad)
        chosen = self.select(
            tile, expr.axis, expr.half, f"{{old}} == {{new}} + {expr.part} * {half.size}"
        )
        return replace(chosen, text=f"({text} if {half.exact} else {chosen.text})")

    def pair(self, expr: Pair) -> Tile:
        """The inverse of two ``pick``s."""
        parts = [self.numeric(self.print(arg)) for arg in expr.children]
        dims = self.tiling.tile((*self.union(parts), expr.half))
        parts = [self.lift(part, dims) for part in parts]
        rest = tuple(dim for dim in dims if dim != expr.half)
        half, whole = self.tiling.any(expr.half), self.tiling.any(expr.axis)
        texts = [self.permute(part.text, dims, (*rest, expr.half)) for part in parts]
        joined = f"tl.join({', '.join(texts)})"
        if expr.pairs == "halves":
            order = [*range(len(rest)), len(rest) + 1, len(rest)]
            joined = f"tl.permute({joined}, {order})"
        sizes = [self.tiling.any(dim).length for dim in rest]
        joined = f"tl.reshape({joined}, [{', '.join([*sizes, whole.length])}])"
        target = self.tiling.tile((*rest, expr.axis))
        text = self.permute(joined, (*rest, expr.axis), target)
        pad = self.pad("add", parts, dims)
        pad = {expr.axis if dim == expr.half else dim: v for dim, v in pad.items() if v == 0.0}
        if expr.pairs == "adjacent":
            return Tile(text, target, pad)
        chosen = []
        for part, tile in enumerate(parts):
            # Lanes beyond the half must not reach a place that exists.
            tile = replace(tile, text=self.keep(tile, expr.half, 0.0), binding=LOOSE)
            test = f"{{new}} == {{old}} + {part} * {half.size}"
            chosen.append(self.select(tile, expr.half, expr.axis, test).text)
        pad.pop(expr.axis, None)
        return Tile(f"({text} if {half.exact} else {' + '.join(chosen)})", target, pad)

    def permute(self, text: str, dims: tuple[str, ...], target: tuple[str, ...]) -> str:
        """``text`` with its dimensions in the order of ``target``."""
        if dims == target:
            return text
        return f"tl.permute({text}, {[dims.index(dim) for dim in target]})"
