"""IR -> PyTorch text, for the reference inside every generated file.

A value is a tensor ``[N, *axes]``: the sequences first, then its axes in the recurrence's order.
Parameters have 1 in place of N. Numbers and sizes stay Python numbers.
"""

from __future__ import annotations

from seqgen.ir.expr import (
    COMPARISONS,
    Apply,
    Detach,
    Expand,
    Expr,
    IfPresent,
    Index,
    Number,
    Pair,
    Pick,
    Reduce,
    Ref,
    Rename,
    Size,
    walk,
)
from seqgen.ir.printer import ATOM, INFIX, NEGATION, number
from seqgen.ir.recurrence import Recurrence

FUNCTIONS = {
    **{op: f"torch.{op}" for op in "exp log log1p expm1 sqrt rsqrt tanh sin cos abs sign".split()},
    "sigmoid": "torch.sigmoid",
    "logsigmoid": "torch.nn.functional.logsigmoid",
    "softplus": "torch.nn.functional.softplus",
    "silu": "torch.nn.functional.silu",
    "max": "torch.maximum",
    "min": "torch.minimum",
    "logaddexp": "torch.logaddexp",
    "where": "torch.where",
}
# Functions whose operands must all be tensors.
STRICT = frozenset({"max", "min", "logaddexp", *FUNCTIONS}) - {"where"}


def is_static(expr: Expr) -> bool:
    """Whether the value is a plain Python number."""
    return not any(isinstance(node, Ref | Index) for node in walk(expr))


class TorchPrinter:
    """Prints expressions of one recurrence. Variables in scope: value names, axis sizes, dtype."""

    def __init__(self, recurrence: Recurrence) -> None:
        self.recurrence = recurrence

    def order(self, expr: Expr) -> tuple[str, ...]:
        """The value's axes in their order in memory."""
        return self.recurrence.order(expr.axes)

    def text(self, expr: Expr) -> str:
        """``expr`` as Python source."""
        return self._print(expr)[0]

    def _wrapped(self, expr: Expr, rank: int, result: Expr) -> str:
        """An operand, broadcast to the axes of ``result``, in parentheses if it needs them."""
        text, own = self._print(expr)
        if own < rank:
            text, own = f"({text})", ATOM
        if is_static(expr) or is_static(result) or not result.axes:
            return text
        have, want = self.order(expr), self.order(result)
        if have == want:
            return text
        index = ", ".join(":" if axis in have else "None" for axis in want)
        return f"{text if own == ATOM else f'({text})'}[:, {index}]"

    def _tensor(self, expr: Expr, result: Expr) -> str:
        if is_static(expr):
            return f"torch.tensor(float({self.text(expr)}), dtype=dtype, device=device)"
        return self._wrapped(expr, 0, result)

    def _print(self, expr: Expr) -> tuple[str, int]:
        if isinstance(expr, Number):
            if expr.value in (float("inf"), float("-inf")):
                return f'float("{expr.value}")', ATOM
            return number(expr.value), ATOM if expr.value >= 0 else NEGATION
        if isinstance(expr, Size):
            return expr.axis, ATOM
        if isinstance(expr, Index):
            return f"torch.arange({expr.axis}, dtype=dtype, device=device)[None]", ATOM
        if isinstance(expr, Ref):
            return self._reference(expr), ATOM
        if isinstance(expr, Apply):
            return self._apply(expr)
        if isinstance(expr, Reduce):
            dim = 1 + self.order(expr.arg).index(expr.axis)
            return f"torch.{expr.op}({self.text(expr.arg)}, {dim})", ATOM
        if isinstance(expr, Detach):
            return f"{self._atom(expr.arg)}.detach()", ATOM
        if isinstance(expr, Expand):
            dim = 1 + self.order(expr.arg).index(expr.parent)
            group = f"{expr.child} // {expr.parent}"
            moved = self._moved(
                expr,
                tuple(expr.child if axis == expr.parent else axis for axis in self.order(expr.arg)),
            )
            return f"{self._atom(expr.arg)}.repeat_interleave({group}, {dim}){moved}", ATOM
        if isinstance(expr, Rename):
            axes = tuple(expr.new if a == expr.old else a for a in self.order(expr.arg))
            return f"{self._atom(expr.arg)}{self._moved(expr, axes)}", ATOM
        if isinstance(expr, Pick):
            dim = 1 + self.order(expr.arg).index(expr.axis)
            shape, at = ("(-1, 2)", dim + 1) if expr.pairs == "adjacent" else ("(2, -1)", dim)
            axes = tuple(expr.half if a == expr.axis else a for a in self.order(expr.arg))
            text = f"{self._atom(expr.arg)}.unflatten({dim}, {shape}).select({at}, {expr.part})"
            return f"{text}{self._moved(expr, axes)}", ATOM
        if isinstance(expr, Pair):
            inner = Apply("add", (expr.first, expr.second))
            order = self.order(inner)
            dim = 1 + order.index(expr.half)
            parts = ", ".join(self._tensor(part, inner) for part in expr.children)
            at = dim + 1 if expr.pairs == "adjacent" else dim
            axes = tuple(expr.axis if a == expr.half else a for a in order)
            text = f"torch.stack(torch.broadcast_tensors({parts}), {at}).flatten({dim}, {dim + 1})"
            return f"{text}{self._moved(expr, axes)}", ATOM
        assert isinstance(expr, IfPresent), type(expr)
        then, other = (self._branch(child, expr) for child in expr.children)
        return f"({then} if {expr.name} is not None else {other})", ATOM

    def _branch(self, expr: Expr, result: IfPresent) -> str:
        """A branch with all axes of ``result``: a sum over one must see its true size."""
        if not set(result.axes) - set(expr.axes):
            return self._tensor(expr, result)
        sizes = ", ".join(self.order(result))
        if is_static(expr):
            value = f"float({self.text(expr)})"
            return f"torch.full((1, {sizes}), {value}, dtype=dtype, device=device)"
        return f"{self._wrapped(expr, ATOM, result)}.expand(-1, {sizes})"

    def _atom(self, expr: Expr) -> str:
        text, rank = self._print(expr)
        return text if rank == ATOM else f"({text})"

    def _moved(self, expr: Expr, axes: tuple[str, ...]) -> str:
        """A permutation from ``axes`` to the order of ``expr``, if one is needed."""
        want = self.order(expr)
        if axes == want:
            return ""
        dims = ", ".join(str(1 + axes.index(axis)) for axis in want)
        return f".permute(0, {dims})"

    def _reference(self, ref: Ref) -> str:
        if not ref.at:
            return ref.name
        (axis, index), *rest = ref.at
        assert not rest, "an input has one repeat axis"
        dim = 1 + self.recurrence.order((*ref.axes, axis)).index(axis)
        return f"{ref.name}.select({dim}, {index})"

    def _apply(self, expr: Apply) -> tuple[str, int]:
        text, rank = self._operation(expr)
        return text, rank

    def _operation(self, expr: Apply) -> tuple[str, int]:
        op, args = expr.op, expr.args
        if op in ("and", "or", "not"):
            parts = [self._truth(arg, expr) for arg in args]
            sign = {"and": " & ", "or": " | ", "not": ""}[op]
            text = f"~{parts[0]}" if op == "not" else sign.join(parts)
            return f"({text}).to(dtype)", ATOM
        if op in COMPARISONS:
            return f"({self._comparison(expr)}).to(dtype)", ATOM
        if op in INFIX:
            sign, rank = INFIX[op]
            left = self._wrapped(args[0], rank + (op == "pow"), expr)
            right = self._wrapped(args[1], rank + (op not in ("add", "mul")), expr)
            return f"{left} {sign} {right}", rank
        if op == "neg":
            return f"-{self._wrapped(args[0], NEGATION, expr)}", NEGATION
        if op == "where":
            rest = [self._tensor(arg, expr) for arg in args[1:]]
            return f"torch.where({self._truth(args[0], expr)}, {', '.join(rest)})", ATOM
        parts = [self._tensor(arg, expr) for arg in args]
        return f"{FUNCTIONS[op]}({', '.join(parts)})", ATOM

    def _comparison(self, expr: Apply) -> str:
        sign = INFIX[expr.op][0]
        return f"{self._tensor(expr.args[0], expr)} {sign} {self._tensor(expr.args[1], expr)}"

    def _truth(self, expr: Expr, result: Expr) -> str:
        if isinstance(expr, Apply) and expr.op in COMPARISONS - {"and", "or", "not"}:
            widened = Apply(expr.op, tuple(expr.args))
            text = f"({self._comparison(widened)})"
            have, want = self.order(expr), self.order(result)
            if have != want:
                index = ", ".join(":" if axis in have else "None" for axis in want)
                text = f"{text}[:, {index}]"
            return text
        return f"({self._tensor(expr, result)} != 0)"
