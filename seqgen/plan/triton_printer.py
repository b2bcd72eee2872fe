"""Expressions of the IR as Triton text over tiles.

A ``Tile`` is a piece of text with the tile dimensions its value has, in the order of the tiling
(a leading "T" for blocks of tokens is one of them). Operands are broadcast explicitly. Lanes
beyond the true size of an axis hold anything, except where ``Tile.pad`` knows better; reductions
mask them unless they are known to be neutral.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

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
from seqgen.plan.tile import ATOM, BINDING, LOOSE, POWER, PRODUCT, UNARY, Tile
from seqgen.plan.triton_axes import AxisPrinter
from seqgen.plan.triton_operations import CALLS, COMPARE, INFIX

Key = tuple[str, tuple[tuple[str, int], ...]]


@dataclass
class Printer(AxisPrinter):
    """Prints expressions and assignments in one scope of a kernel.

    ``values`` maps ``(Ref.name, Ref.at)`` to tiles; ``names`` gives values whose name the kernel
    uses itself another one. ``helpers`` collects the functions the text calls.
    """

    values: dict[Key, Tile] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

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

    def tensor(self, tile: Tile) -> Tile:
        """A number as a scalar tensor, for functions that take no Python numbers."""
        return self.lift(tile, ()) if tile.host else tile

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


def present(name: str) -> str:
    """The constexpr that says whether an optional tensor was given."""
    return f"HAS_{name}"
