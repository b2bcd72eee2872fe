"""The problem that is tuned: an operator with sizes and a dtype, and random inputs for it.

A ``Workload`` is plain data that travels to the worker as JSON; the worker has the generated file
and this description, and makes the tensors itself.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from seqgen.errors import UsageError
from seqgen.ir.recurrence import Recurrence, Tensor


@dataclass(frozen=True)
class Operand:
    """One tensor argument, in the order of the operator's signature.

    Args:
        name: of the argument.
        axes: its layout without the leading B and T of an input.
        per_token: an input, with B and T in front; a parameter otherwise.
        dtype: ``"io"`` or ``"float32"``.
        low: lower end of the declared range, None if there is none; ``high`` likewise.
        scale: a strength per head or the like: fewer axes than another input.
        required: positional; an optional one goes by keyword.
    """

    name: str
    axes: tuple[str, ...]
    per_token: bool
    dtype: str
    low: float | None
    high: float | None
    scale: bool
    required: bool

    @property
    def gate_like(self) -> bool:
        """Whether its gradient is held to the limit of gates rather than of vectors."""
        return self.low is not None or self.scale or not self.per_token or self.dtype != "io"


@dataclass(frozen=True)
class Workload:
    """An operator at given sizes.

    Args:
        op: its name, and that of its function.
        dtype: the io dtype: ``"fp32"``, ``"fp16"`` or ``"bf16"``.
        sizes: of every axis, and of B and T.
        groups: an axis and the one that it is groups of; the ratio stays when sizes shrink.
        free: axes whose size nothing else depends on, except for groups.
        operands: the tensor arguments in the order of the signature.
        states: axes of each state; its tensor has the number of sequences in front.
    """

    op: str
    dtype: str
    sizes: Mapping[str, int]
    groups: Mapping[str, str]
    free: tuple[str, ...]
    operands: tuple[Operand, ...]
    states: tuple[tuple[str, ...], ...]

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Workload:
        """The inverse of ``dataclasses.asdict``, after a way through JSON."""
        operands = tuple(Operand(**{**o, "axes": tuple(o["axes"])}) for o in value["operands"])
        states = tuple(tuple(axes) for axes in value["states"])
        plain = {**value, "free": tuple(value["free"]), "operands": operands, "states": states}
        return cls(**plain)

    def at(self, **sizes: int) -> Workload:
        """The same operator at other sizes; axes that are not named keep theirs."""
        return replace(self, sizes={**self.sizes, **sizes})

    def shrunk(self, keep: frozenset[str], limit: int = 2) -> Workload:
        """With free axes outside ``keep`` at most ``limit``."""
        sizes = dict(self.sizes)
        for axis in self.free:
            if axis not in keep:
                sizes[axis] = min(sizes[axis], limit)
        for axis, parent in self.groups.items():
            if axis not in keep:
                sizes[axis] = self.sizes[axis] // self.sizes[parent] * sizes[parent]
        return replace(self, sizes=sizes)


def workload_of(recurrence: Recurrence, sizes: Mapping[str, int], dtype: str) -> Workload:
    """The workload of an operator.

    Args:
        recurrence: the operator.
        sizes: B, T and any axes; the others take their defaults.
        dtype: the io dtype, ``"fp32"``, ``"fp16"`` or ``"bf16"``.

    Raises:
        UsageError: a size for an axis that does not exist, B or T is missing, or not a multiple.
    """
    known = {axis.name for axis in recurrence.axes} | {"B", "T"}
    unknown = sorted(set(sizes) - known)
    if unknown or not {"B", "T"} <= set(sizes):
        wrong = f"has no axis {', '.join(unknown)}" if unknown else "needs sizes for B and T"
        raise UsageError(f"{recurrence.name} {wrong}; its axes are {', '.join(sorted(known))}.")
    complete = _complete(recurrence, sizes)
    groups = {a.name: a.parent for a in recurrence.axes if a.parent is not None}
    for child, parent in groups.items():
        if complete[child] % complete[parent]:
            raise UsageError(
                f"{recurrence.name}: {child} = {complete[child]} must be a multiple of "
                f"{parent} = {complete[parent]}."
            )
    bound = {a.twin for a in recurrence.axes} | set(groups)
    for axis in recurrence.axes:
        if axis.derived is not None:
            bound |= {axis.name, *re.findall(r"[A-Za-z_]\w*", axis.derived)}
    inputs = [t for t in recurrence.tensors if t.kind == "input"]
    return Workload(
        op=recurrence.name,
        dtype=dtype,
        sizes=complete,
        groups=groups,
        free=tuple(
            a.name
            for a in recurrence.axes
            if a.name not in bound and a.twin is None and not a.fixed
        ),
        operands=tuple(_operand(t, inputs) for t in recurrence.argument_order()),
        states=tuple(state.axes for state in recurrence.states),
    )


def _complete(recurrence: Recurrence, sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes of all axes: as given, else as the other axes imply, else the default."""
    complete = {"B": sizes["B"], "T": sizes["T"]}
    defaults = {axis.name: axis.size for axis in recurrence.axes}
    for axis in recurrence.axes:
        size = sizes.get(axis.name, axis.size)
        if axis.name not in sizes and axis.parent is not None and axis.parent in sizes:
            size = axis.size // defaults[axis.parent] * sizes[axis.parent]
        complete[axis.name] = size
    for axis in recurrence.axes:
        if axis.name in sizes:
            continue
        if axis.twin is not None:
            complete[axis.name] = complete[axis.twin]
        if axis.derived is not None:
            complete[axis.name] = _evaluate(ast.parse(axis.derived, mode="eval").body, complete)
    return complete


def _evaluate(node: ast.expr, sizes: Mapping[str, int]) -> int:
    """Sizes in expressions are sums and products: the spec's checks saw to that."""
    if isinstance(node, ast.Constant):
        return int(str(node.value))
    if isinstance(node, ast.Name):
        return sizes[node.id]
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return _OPERATORS[type(node.op)](_evaluate(node.left, sizes), _evaluate(node.right, sizes))
    raise UsageError(f"The size {ast.unparse(node)} cannot be computed.")


_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def _operand(tensor: Tensor, inputs: Sequence[Tensor]) -> Operand:
    low, high = tensor.range or (None, None)
    per_token = tensor.kind == "input"
    return Operand(
        name=tensor.name,
        axes=tensor.axes,
        per_token=per_token,
        dtype="float32" if tensor.dtype == "float32" or not per_token else "io",
        low=low,
        high=high,
        scale=per_token and any(set(tensor.axes) < set(other.axes) for other in inputs),
        required=tensor.required,
    )
