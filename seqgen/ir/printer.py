"""Text of the IR: for people (``--emit ir``, comments, messages) and for the spec's hash."""

from __future__ import annotations

import hashlib
from dataclasses import replace

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
from seqgen.ir.recurrence import Recurrence, Tensor

INFIX: dict[str, tuple[str, int]] = {
    "or": ("or", 1),
    "and": ("and", 2),
    "lt": ("<", 3),
    "le": ("<=", 3),
    "gt": (">", 3),
    "ge": (">=", 3),
    "eq": ("==", 3),
    "ne": ("!=", 3),
    "add": ("+", 4),
    "sub": ("-", 4),
    "mul": ("*", 5),
    "div": ("/", 5),
    "mod": ("%", 5),
    "pow": ("**", 7),
}
NEGATION, ATOM = 6, 9


def number(value: float) -> str:
    """Shortest text that reads back as ``value``; whole numbers without a point."""
    if value == int(value) if abs(value) < 1e15 else False:
        return str(int(value))
    return repr(value)


def show(expr: Expr) -> str:
    """``expr`` in the syntax of the language, as far as the language has it."""
    return _show(expr)[0]


def _show(expr: Expr) -> tuple[str, int]:
    if isinstance(expr, Number):
        return number(expr.value), ATOM if expr.value >= 0 else NEGATION
    if isinstance(expr, Size):
        return expr.axis, ATOM
    if isinstance(expr, Index):
        return f"index({expr.axis})", ATOM
    if isinstance(expr, Ref):
        picked = ", ".join(f"{axis}={i}" for axis, i in expr.at)
        return (f"{expr.name}[{picked}]" if picked else expr.name), ATOM
    if isinstance(expr, Apply):
        if expr.op in INFIX:
            sign, rank = INFIX[expr.op]
            (a, rank_a), (b, rank_b) = (_show(arg) for arg in expr.args)
            left = f"({a})" if rank_a < rank or (expr.op == "pow" and rank_a == rank) else a
            right = f"({b})" if rank_b < rank or (rank_b == rank and expr.op != "add") else b
            return f"{left} {sign} {right}", rank
        if expr.op == "neg":
            text, rank = _show(expr.args[0])
            return f"-{text}" if rank > NEGATION else f"-({text})", NEGATION
        return f"{expr.op}({', '.join(show(arg) for arg in expr.args)})", ATOM
    if isinstance(expr, Reduce):
        return f"{expr.op}({show(expr.arg)}, {expr.axis})", ATOM
    if isinstance(expr, Rename):
        return f"rename({show(expr.arg)}, {expr.old}={expr.new})", ATOM
    if isinstance(expr, Expand):
        return _show(expr.arg)  # the language writes it by the axes alone
    if isinstance(expr, GroupSum):
        return f"group_sum({show(expr.arg)}, {expr.child}->{expr.parent})", ATOM
    if isinstance(expr, Pick):
        return f"pick({show(expr.arg)}, {expr.axis}->{expr.half}, {expr.part}, {expr.pairs})", ATOM
    if isinstance(expr, Pair):
        parts = f"{show(expr.first)}, {show(expr.second)}"
        return f"pair({parts}, {expr.half}->{expr.axis}, {expr.pairs})", ATOM
    if isinstance(expr, IfPresent):
        return f"({show(expr.then)} if {expr.name} else {show(expr.other)})", ATOM
    assert isinstance(expr, Detach), type(expr)
    return f"detach({show(expr.arg)})", ATOM


def _tensor_line(tensor: Tensor) -> str:
    extras = [tensor.dtype or ("io" if tensor.kind == "input" else "float32")]
    if tensor.range is not None:
        extras.append(f"in [{number(tensor.range[0])}, {number(tensor.range[1])}]")
    if tensor.default is not None:
        extras.append(f"default {number(tensor.default)}")
    elif tensor.optional:
        extras.append("optional")
    if tensor.value != tensor.name:
        extras.append(f"as {tensor.value}")
    return f"  {tensor.kind} {tensor.name}[{', '.join(tensor.axes)}] {', '.join(extras)}"


def show_recurrence(recurrence: Recurrence) -> str:
    """The whole recurrence, one line per element."""
    lines = [f"recurrence {recurrence.name}{' (reverse)' if recurrence.reverse else ''}"]
    for axis in recurrence.axes:
        relation = ""
        if axis.parent is not None:
            relation = f" groups of {axis.parent}"
        elif axis.twin is not None:
            relation = f" same as {axis.twin}"
        elif axis.derived is not None:
            relation = f" = {axis.derived}"
        lines.append(f"  axis {axis.name}: {axis.size}{relation}{' fixed' if axis.fixed else ''}")
    lines += [_tensor_line(tensor) for tensor in recurrence.tensors]
    for state in recurrence.states:
        kind = "delay state" if state.delay else "state"
        init = f" init {number(state.init)}" if state.init else ""
        lines.append(f"  {kind} {state.name}[{', '.join(state.axes)}]{init}")
    for title, block in (("let", recurrence.let), ("update", recurrence.update)):
        for assignment in block:
            axes = ", ".join(recurrence.order(assignment.value.axes))
            lines.append(f"  {title} {assignment.name}[{axes}] = {show(assignment.value)}")
    for name, value in recurrence.final:
        if name != value:
            lines.append(f"  next {name} = {value}")
    for output in recurrence.outputs:
        axes = ", ".join(output.axes)
        lines.append(f"  output {output.name}[{axes}] = {show(output.value)}")
    if recurrence.require is not None:
        lines.append(f"  require {recurrence.require}")
    if recurrence.chunk is not None:
        lines.append(f"  chunk {recurrence.chunk}")
    return "\n".join(lines)


def spec_hash(recurrence: Recurrence) -> str:
    """16 hexadecimal digits over the meaning of a spec.

    Comments, layout, ``about`` and the file's name do not change it; names, axes and equations do.
    """
    meaning = replace(recurrence, about="", origin="")
    return hashlib.sha256(repr(meaning).encode()).hexdigest()[:16]
