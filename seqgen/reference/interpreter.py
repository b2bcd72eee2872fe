"""The meaning of a recurrence, executed: PyTorch, token by token, any floating dtype.

This is the truth that kernels are compared with (in float64), so it is written to be read. Every
value is a tensor ``[B, axis, axis, ...]`` over *all* axes of the recurrence in their order, with
size 1 along those that it lacks: operands then broadcast by name without further thought.
Gradients come from autograd.
"""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from seqgen.errors import UsageError
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
from seqgen.ir.recurrence import Assignment, Recurrence

Values = dict[str, Tensor]
Function = Callable[..., Tensor]


def _truth(function: Function) -> Function:
    """A comparison whose result is 1 or 0 in the dtype of its operands."""
    return lambda a, b: function(a, b).to(a.dtype)


POINTWISE: dict[str, Function] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "div": torch.div,
    "pow": torch.pow,
    "max": torch.maximum,
    "min": torch.minimum,
    "mod": torch.remainder,
    "logaddexp": torch.logaddexp,
    "lt": _truth(torch.lt),
    "le": _truth(torch.le),
    "gt": _truth(torch.gt),
    "ge": _truth(torch.ge),
    "eq": _truth(torch.eq),
    "ne": _truth(torch.ne),
    "and": _truth(torch.logical_and),
    "or": _truth(torch.logical_or),
    "not": lambda a: torch.logical_not(a).to(a.dtype),
    "where": lambda c, a, b: torch.where(c != 0, a, b),
    "neg": torch.neg,
    "exp": torch.exp,
    "log": torch.log,
    "log1p": torch.log1p,
    "expm1": torch.expm1,
    "sqrt": torch.sqrt,
    "rsqrt": torch.rsqrt,
    "abs": torch.abs,
    "sign": torch.sign,
    "sigmoid": torch.sigmoid,
    "logsigmoid": torch.nn.functional.logsigmoid,
    "softplus": torch.nn.functional.softplus,
    "silu": torch.nn.functional.silu,
    "tanh": torch.tanh,
    "sin": torch.sin,
    "cos": torch.cos,
}


class Evaluator:
    """Evaluates expressions over named values.

    Args:
        axes: all axes, in order: dimension ``1 + i`` of a value is axis ``i``.
        sizes: their true sizes.
        like: a tensor whose dtype and device numbers get.
        present: declared names of the optional tensors that were given.
    """

    def __init__(
        self, axes: Sequence[str], sizes: Mapping[str, int], like: Tensor, present: frozenset[str]
    ) -> None:
        self.dim = {name: 1 + i for i, name in enumerate(axes)}
        self.sizes = dict(sizes)
        self.like = like
        self.present = present

    def number(self, value: float) -> Tensor:
        return self.like.new_full((1,) * (len(self.dim) + 1), value)

    def load(self, tensor: Tensor, axes: Sequence[str], batch: int = 1) -> Tensor:
        """``tensor [batch dimensions..., *axes]`` with all axes, in order."""
        order = sorted(range(len(axes)), key=lambda i: self.dim[axes[i]])
        tensor = tensor.permute([*range(batch), *(batch + i for i in order)])
        sizes = [self.sizes[name] if name in axes else 1 for name in self.dim]
        return tensor.reshape(*tensor.shape[:batch], *sizes)

    def store(self, value: Tensor, axes: Sequence[str], batch: int) -> Tensor:
        """``value`` as ``[batch, *axes]``."""
        sizes = [self.sizes[name] if name in axes else 1 for name in self.dim]
        value = value.expand(batch, *sizes).reshape(
            batch, *(self.sizes[name] for name in self.dim if name in axes)
        )
        kept = [name for name in self.dim if name in axes]
        return value.permute([0, *(1 + kept.index(name) for name in axes)])

    def whole(self, value: Tensor, axis: str) -> Tensor:
        """``value`` at its true size along ``axis``, which it may lack (a branch, a constant)."""
        sizes = list(value.shape)
        sizes[self.dim[axis]] = self.sizes[axis]
        return value.expand(sizes)

    def run(self, assignments: Sequence[Assignment], values: Values) -> None:
        """Adds the value of each assignment to ``values``."""
        for assignment in assignments:
            values[assignment.name] = self(assignment.value, values)

    def __call__(self, expr: Expr, values: Mapping[str, Tensor]) -> Tensor:
        """The value of ``expr``."""
        if isinstance(expr, Number):
            return self.number(expr.value)
        if isinstance(expr, Size):
            return self.number(float(self.sizes[expr.axis]))
        if isinstance(expr, Index):
            count = torch.arange(
                self.sizes[expr.axis], dtype=self.like.dtype, device=self.like.device
            )
            return self.load(count, (expr.axis,), 0).unsqueeze(0)
        if isinstance(expr, Ref):
            value = values[expr.name]
            for axis, index in expr.at:
                value = self.whole(value, axis).narrow(self.dim[axis], index, 1)
            return value
        if isinstance(expr, IfPresent):
            return self(expr.then if expr.name in self.present else expr.other, values)
        args = [self(child, values) for child in expr.children]
        if isinstance(expr, Apply):
            return POINTWISE[expr.op](*args)
        if isinstance(expr, Reduce):
            value, dim = self.whole(args[0], expr.axis), self.dim[expr.axis]
            return value.sum(dim, keepdim=True) if expr.op == "sum" else value.amax(dim, True)
        if isinstance(expr, Rename):
            return args[0].transpose(self.dim[expr.old], self.dim[expr.new])
        if isinstance(expr, Expand):
            parent, child = self.dim[expr.parent], self.dim[expr.child]
            group = self.sizes[expr.child] // self.sizes[expr.parent]
            value = self.whole(args[0], expr.parent)
            return value.repeat_interleave(group, parent).transpose(parent, child)
        if isinstance(expr, GroupSum):
            parent, child = self.dim[expr.parent], self.dim[expr.child]
            shape = (self.sizes[expr.parent], self.sizes[expr.child] // self.sizes[expr.parent])
            value = self.whole(args[0], expr.child)
            return _split(value, child, *shape).sum(child + 1).transpose(parent, child)
        if isinstance(expr, Pick):
            dim, half = self.dim[expr.axis], self.dim[expr.half]
            value = self.whole(args[0], expr.axis)
            return _halves(value, dim, expr.pairs)[expr.part].transpose(dim, half)
        if isinstance(expr, Pair):
            first, second = (self.whole(arg, expr.half) for arg in args)
            return self._join(first, second, expr)
        assert isinstance(expr, Detach)
        return args[0].detach()

    def _join(self, first: Tensor, second: Tensor, expr: Pair) -> Tensor:
        axis, half = self.dim[expr.axis], self.dim[expr.half]
        shape = torch.broadcast_shapes(first.shape, second.shape)  # type: ignore[no-untyped-call]
        first = first.expand(shape).transpose(axis, half)
        second = second.expand(shape).transpose(axis, half)
        if expr.pairs == "halves":
            return torch.cat((first, second), axis)
        return torch.stack((first, second), axis + 1).flatten(axis, axis + 1)


def _split(value: Tensor, dim: int, outer: int, inner: int) -> Tensor:
    """One dimension as two, the second of which changes fastest."""
    return value.reshape(*value.shape[:dim], outer, inner, *value.shape[dim + 1 :])


def _halves(value: Tensor, dim: int, pairs: str) -> tuple[Tensor, Tensor]:
    half = value.shape[dim] // 2
    if pairs == "halves":
        return value.narrow(dim, 0, half), value.narrow(dim, half, half)
    both = _split(value, dim, half, 2)
    return both.select(dim + 1, 0), both.select(dim + 1, 1)


def _size(node: ast.expr, sizes: Mapping[str, int]) -> int:
    """The value of a derived size: whole numbers, axes and ``+ - *``."""
    if isinstance(node, ast.Constant):
        assert isinstance(node.value, int)
        return node.value
    if isinstance(node, ast.Name):
        return sizes[node.id]
    assert isinstance(node, ast.BinOp)
    left, right = _size(node.left, sizes), _size(node.right, sizes)
    if isinstance(node.op, ast.Mult):
        return left * right
    return left + right if isinstance(node.op, ast.Add) else left - right


def axis_sizes(recurrence: Recurrence, tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Sizes of all axes, as the given tensors have them; derived and unused ones computed.

    Raises:
        UsageError: tensors disagree, or do not have the dimensions that were declared.
    """
    sizes: dict[str, int] = {}
    for tensor in recurrence.tensors:
        if tensor.name not in tensors:
            continue
        given = tensors[tensor.name]
        extra = 2 if tensor.kind == "input" else 0
        if given.dim() != len(tensor.axes) + extra:
            raise UsageError(
                f"'{tensor.name}' has {given.dim()} dimensions, needs {len(tensor.axes) + extra}."
            )
        for axis, size in zip(tensor.axes, given.shape[extra:], strict=True):
            if sizes.setdefault(axis, size) != size:
                raise UsageError(
                    f"Axis '{axis}' has size {sizes[axis]} and, in '{tensor.name}', {size}."
                )
    for axis_ in recurrence.axes:
        if axis_.derived is None and axis_.name not in sizes:
            sizes[axis_.name] = sizes.get(axis_.twin or "", axis_.size)
    for axis_ in recurrence.axes:
        if axis_.derived is not None:
            size = _size(ast.parse(axis_.derived, mode="eval").body, sizes)
            if sizes.setdefault(axis_.name, size) != size:
                raise UsageError(
                    f"Axis '{axis_.name}' has size {sizes[axis_.name]}, "
                    f"but {axis_.derived} is {size}."
                )
    return sizes


def run(
    recurrence: Recurrence,
    tensors: Mapping[str, Tensor],
    initial_state: Mapping[str, Tensor | None] | None = None,
    cu_seqlens: Tensor | None = None,
) -> tuple[Values, Values]:
    """Outputs and final states.

    Args:
        recurrence: what to run.
        tensors: inputs ``[B, T, *axes]`` and parameters ``[*axes]`` by declared name, all of one
            dtype; optional ones may be missing.
        initial_state: states ``[N, *axes]`` by name; what is missing or None starts at ``init``.
        cu_seqlens: boundaries ``[N + 1]`` of packed sequences; B is then 1.

    Returns:
        outputs ``[B, T, *axes]`` and final states ``[N, *axes]``, by name.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    given = {n: s for n, s in (initial_state or {}).items() if s is not None}
    if cu_seqlens is None:
        return _run_batch(recurrence, tensors, given)
    inputs = {tensor.name for tensor in recurrence.inputs}
    bounds = [int(x) for x in cu_seqlens]
    pieces = []
    for i, (start, stop) in enumerate(itertools.pairwise(bounds)):
        part = {n: t[:, start:stop] if n in inputs else t for n, t in tensors.items()}
        pieces.append(_run_batch(recurrence, part, {n: s[i : i + 1] for n, s in given.items()}))
    outputs = {o.name: torch.cat([p[0][o.name] for p in pieces], 1) for o in recurrence.outputs}
    finals = {s.name: torch.cat([p[1][s.name] for p in pieces], 0) for s in recurrence.states}
    return outputs, finals


def sequence_shape(
    recurrence: Recurrence, tensors: Mapping[str, Tensor]
) -> tuple[Tensor, int, int]:
    """A tensor that stands for all in dtype and device; sequences B and tokens T.

    Raises:
        UsageError: no input was given, or inputs disagree.
    """
    given = [t.name for t in recurrence.inputs if t.name in tensors]
    if not given:
        raise UsageError("At least one input is needed: its shape says how many tokens there are.")
    first = tensors[given[0]]
    for name in given:
        if tensors[name].shape[:2] != first.shape[:2]:
            raise UsageError(
                f"'{name}' has [B, T] = {list(tensors[name].shape[:2])}, "
                f"'{given[0]}' has {list(first.shape[:2])}."
            )
    return first, first.shape[0], first.shape[1]


def start(
    recurrence: Recurrence,
    tensors: Mapping[str, Tensor],
    initial: Mapping[str, Tensor],
) -> tuple[Evaluator, Values, Values, Values]:
    """What a token loop begins with: evaluator, inputs over time, parameters, states."""
    like, _, _ = sequence_shape(recurrence, tensors)
    sizes = axis_sizes(recurrence, tensors)
    names = [axis.name for axis in recurrence.axes]
    evaluate = Evaluator(names, sizes, like, frozenset(tensors))
    inputs, parameters, states = {}, {}, {}
    for tensor in recurrence.tensors:
        if tensor.name in tensors:
            value = tensors[tensor.name]
            if tensor.kind == "input":
                inputs[tensor.value] = evaluate.load(value, tensor.axes, 2)
            else:
                parameters[tensor.value] = evaluate.load(value, tensor.axes, 0).unsqueeze(0)
        elif tensor.default is not None:
            parameters[tensor.value] = evaluate.number(tensor.default)
        elif tensor.required:
            raise UsageError(f"'{tensor.name}' is missing.")
    for state in recurrence.states:
        if state.name in initial:
            states[state.incoming] = evaluate.load(initial[state.name], state.axes)
        else:
            states[state.incoming] = evaluate.number(state.init)
    return evaluate, inputs, parameters, states


def _run_batch(
    recurrence: Recurrence, tensors: Mapping[str, Tensor], initial: Mapping[str, Tensor]
) -> tuple[Values, Values]:
    evaluate, inputs, parameters, states = start(recurrence, tensors, initial)
    _, batch, length = sequence_shape(recurrence, tensors)
    order = range(length - 1, -1, -1) if recurrence.reverse else range(length)
    results: dict[str, list[Tensor]] = {output.name: [] for output in recurrence.outputs}
    for t in order:
        values = parameters | {name: value[:, t] for name, value in inputs.items()} | states
        evaluate.run(recurrence.assignments, values)
        for output in recurrence.outputs:
            value = evaluate(output.value, values)
            results[output.name].append(evaluate.store(value, output.axes, batch))
        states = {recurrence.state(s).incoming: values[v] for s, v in recurrence.final}
    outputs = {}
    for output in recurrence.outputs:
        rows = results[output.name]
        if rows:
            outputs[output.name] = torch.stack(rows[::-1] if recurrence.reverse else rows, 1)
        else:
            shape = [evaluate.sizes[axis] for axis in output.axes]
            outputs[output.name] = evaluate.like.new_zeros(batch, 0, *shape)
    finals = {
        state.name: evaluate.store(states[state.incoming], state.axes, batch).clone()
        for state in recurrence.states
    }
    return outputs, finals
