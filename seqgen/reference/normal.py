"""A recurrence run by its structure: chunk forms for what has a normal form, tokens for the rest.

This is what a generated operator does, without its tiling: it shows that the structure pass and
the chunk form together mean the same as the recurrence. States that have a normal form are never
computed token by token here; every value that depends on one comes out of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from seqgen.ir.expr import Expand, Expr, Number, Ref, references
from seqgen.passes.components import Program
from seqgen.passes.normal_form import Step
from seqgen.passes.reads import Read
from seqgen.passes.structure import Component, Structure
from seqgen.reference import chunk
from seqgen.reference.chunk import Column, Roles, Row
from seqgen.reference.interpreter import Evaluator, Values, sequence_shape, start

Expansion = tuple[tuple[str, str], ...]


def run(
    structure: Structure,
    tensors: Mapping[str, Tensor],
    initial_state: Mapping[str, Tensor] | None = None,
    length: int = 16,
) -> tuple[Values, Values]:
    """Outputs ``[B, T, *axes]``, and final states ``[B, *axes]`` of states with a normal form.

    Args:
        structure: the analysed recurrence.
        tensors: as for ``interpreter.run``; B sequences of equal length, at least one token.
        initial_state: states ``[B, *axes]`` by name.
        length: of a chunk.
    """
    rec = structure.recurrence
    if rec.reverse:
        inputs = {t.name for t in rec.inputs}
        tensors = {n: t.flip(1) if n in inputs else t for n, t in tensors.items()}
    runner = _Runner(structure, tensors, dict(initial_state or {}), length)
    outputs = {}
    for output in rec.outputs:
        closed = next(o.value for o in structure.outputs if o.name == output.name)
        value = runner.evaluate.store(runner.value(closed), output.axes, runner.tokens)
        value = value.reshape(runner.batch, runner.length, *value.shape[1:])
        outputs[output.name] = value.flip(1) if rec.reverse else value
    formed = (c for c in structure.components if c.form is not None)
    return outputs, {c.states[0]: runner.final(c) for c in formed}


@dataclass
class _Runner:
    structure: Structure
    tensors: Mapping[str, Tensor]
    initial: dict[str, Tensor]
    chunk: int
    evaluate: Evaluator = field(init=False)
    values: Values = field(init=False)
    """Values at all tokens, ``[B * T, every axis]``, as far as they are known."""

    def __post_init__(self) -> None:
        rec = self.structure.recurrence
        _, self.batch, self.length = sequence_shape(rec, self.tensors)
        self.tokens = self.batch * self.length
        self.reads = {read.name: read for read in self.structure.reads if read.bound}
        self.formed = {c.states[0] for c in self.structure.components if c.form is not None}
        self.evaluate, inputs, parameters, states = start(rec, self.tensors, self.initial)
        program = Program(rec)
        own = {name for s in self.formed for name in program.versions[s]}
        hidden = own | {
            a.name for a in rec.assignments if program.states_read(a.name) & self.formed
        }
        seen: dict[str, list[Tensor]] = {}
        for t in range(self.length):
            values = parameters | {name: x[:, t] for name, x in inputs.items()} | states
            self.evaluate.run(rec.assignments, values)
            states = {rec.state(s).incoming: values[v] for s, v in rec.final}
            for name in values.keys() - own - hidden - parameters.keys():
                shape = (self.batch, *values[name].shape[1:])
                seen.setdefault(name, []).append(values[name].expand(shape))
        self.values = dict(parameters)
        for name, rows in seen.items():
            self.values[name] = torch.stack(rows, 1).flatten(0, 1)

    def value(self, expr: Expr) -> Tensor:
        """``expr`` at all tokens; reads that it needs are computed first."""
        for name in references(expr):
            if name in self.reads and name not in self.values:
                self.values[name] = self.read(self.reads[name])
        return self.evaluate(expr, self.values)

    # Layout -----------------------------------------------------------------------------------

    def rows(self, expr: Expr | None, heads: tuple[str, ...], axes: tuple[str, ...]) -> Tensor:
        """``expr`` as ``[B, *heads, T, axes]``, the axes flattened to one; None is zero."""
        value = self.value(expr if expr is not None else Number(0.0))
        value = self.evaluate.store(value, (*heads, *axes), self.tokens)
        value = value.reshape(self.batch, self.length, *value.shape[1 : 1 + len(heads)], -1)
        return value.movedim(1, -2)

    def back(self, rows: Tensor, heads: tuple[str, ...], axes: tuple[str, ...]) -> Tensor:
        """The inverse of ``rows``: a value at all tokens."""
        rows = rows.movedim(-2, 1).flatten(0, 1)
        sizes = [self.evaluate.sizes[axis] for axis in (*heads, *axes)]
        return self.evaluate.load(rows.reshape(self.tokens, *sizes), (*heads, *axes))

    def start_state(self, component: Component, expand: Expansion) -> Tensor:
        """The initial state ``[B, *heads, K, V]``."""
        form, name = component.form, component.states[0]
        assert form is not None
        state = self.structure.recurrence.state(name)
        if self.initial.get(name) is not None:
            value = self.evaluate.load(self.initial[name], state.axes)
        else:
            value = self.evaluate.number(state.init)
        axes = (*form.head_axes, *form.key_axes, *form.value_axes)
        value = self.evaluate.store(value, axes, self.batch)
        heads = len(form.head_axes)
        value = value.reshape(*value.shape[: 1 + heads], *self.matrix(component))
        for parent, child in expand:
            group = self.evaluate.sizes[child] // self.evaluate.sizes[parent]
            value = value.repeat_interleave(group, 1 + form.head_axes.index(parent))
        return value

    def matrix(self, component: Component) -> tuple[int, int]:
        assert component.form is not None
        sizes = [1, 1]
        for i, axes in enumerate((component.form.key_axes, component.form.value_axes)):
            for axis in axes:
                sizes[i] *= self.evaluate.sizes[axis]
        return sizes[0], sizes[1]

    # Roles ------------------------------------------------------------------------------------

    def roles(self, component: Component, expand: Expansion) -> tuple[Roles, tuple[str, ...]]:
        """Columns and decays over micro-tokens, without reads; and the head axes."""
        form = component.form
        assert form is not None
        children = dict(expand)
        heads = tuple(children.get(axis, axis) for axis in form.head_axes)
        steps = form.steps

        def at(expr: Expr | None, axes: tuple[str, ...], i: int) -> Tensor:
            for parent, child in expand:
                if expr is not None and parent in expr.axes:
                    expr = Expand(expr, parent, child)
            return _spread(self.rows(expr, heads, axes), i, len(steps))

        def columns(step: Step, i: int) -> list[Column]:
            sees = "decayed" if step.inner == "D" else "old"
            key, value = form.key_axes, form.value_axes
            if step.delta is not None:
                row = Row(at(step.delta.r, key, i), sees)
                return [Column(at(step.delta.x, key, i), at(step.delta.y, value, i), row, -1.0)]
            found = [
                Column(at(e.put, key, i), None, Row(at(e.row, key, i), sees)) for e in step.erases
            ]
            writes = [Column(at(w.key, key, i), at(w.value, value, i)) for w in step.writes]
            return found + writes

        decays = [step.decay for step in steps]
        g_key = sum((at(d.log, form.key_axes, i) for i, d in enumerate(decays)), torch.zeros(()))
        g_value = sum(
            (at(d.log_value, form.value_axes, i) for i, d in enumerate(decays)), torch.zeros(())
        )
        everything = [column for i, step in enumerate(steps) for column in columns(step, i)]
        return Roles(tuple(everything), (), g_key, g_value), heads

    def final(self, component: Component) -> Tensor:
        """The final state, ``[B, *axes]`` as declared."""
        roles, _ = self.roles(component, ())
        _, state, _ = chunk.forward(roles, self.start_state(component, ()), self.chunk)
        form, name = component.form, component.states[0]
        assert form is not None
        axes = (*form.head_axes, *form.key_axes, *form.value_axes)
        state = state.reshape(self.batch, *(self.evaluate.sizes[axis] for axis in axes))
        declared = self.structure.recurrence.state(name).axes
        return self.evaluate.store(self.evaluate.load(state, axes), declared, self.batch)

    def read(self, read: Read) -> Tensor:
        """A read at all tokens."""
        component = self.structure.component(read.state)
        form = component.form
        if form is None:
            return self.direct(read)
        roles, heads = self.roles(component, read.expand)
        side = component.side(read)
        bound, free = form.key_axes, form.value_axes
        if side == "value":
            bound, free = free, bound
        count = len(form.steps)
        slot = 0 if read.before else count - 1
        weight = _spread(self.rows(read.weight, heads, bound), slot, count)
        row = Row(weight, "old" if read.before else "new", side)
        roles = Roles(roles.columns, (row,), roles.g_key, roles.g_value)
        state = self.start_state(component, read.expand)
        (result,), _, _ = chunk.forward(roles, state, self.chunk * count)
        return self.back(result[..., slot::count, :], heads, free)

    def direct(self, read: Read) -> Tensor:
        """A read of a state that goes token by token."""
        state = self.structure.recurrence.state(read.state)
        final = dict(self.structure.recurrence.final)[read.state]
        value: Expr = Ref(state.incoming if read.before else final, state.axes)
        for parent, child in read.expand:
            value = Expand(value, parent, child)
        result = self.value(read.weight) * self.value(value)
        for axis in read.bound:
            result = result.sum(self.evaluate.dim[axis], keepdim=True)
        return result


def _spread(rows: Tensor, slot: int, count: int) -> Tensor:
    """Tokens as micro-tokens: ``rows`` at one of ``count`` places of each token, else zero."""
    if count == 1:
        return rows
    spread = rows.new_zeros(*rows.shape[:-1], count, rows.shape[-1])
    spread[..., slot, :] = rows
    return spread.flatten(-3, -2)
