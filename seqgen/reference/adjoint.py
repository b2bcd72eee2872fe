"""The symbolic adjoint, executed token by token: gradients without autograd.

It follows the same path as generated token-serial kernels (states of every token kept, then
``Adjoint.forward`` and ``Adjoint.backward`` from the last token to the first) and is compared
with autograd through ``reference.interpreter``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from seqgen.ir.recurrence import Recurrence
from seqgen.passes.differentiate import Adjoint, differentiate
from seqgen.reference.interpreter import Evaluator, Values, sequence_shape, start


def gradients(
    recurrence: Recurrence,
    tensors: Mapping[str, Tensor],
    d_outputs: Mapping[str, Tensor],
    d_finals: Mapping[str, Tensor],
    initial_state: Mapping[str, Tensor] | None = None,
    adjoint: Adjoint | None = None,
) -> tuple[Values, Values]:
    """Gradients of tensors and of the initial states, both by declared name.

    Args:
        recurrence: what was run.
        tensors: inputs ``[B, T, *axes]`` and parameters ``[*axes]``.
        d_outputs: cotangents of the outputs, ``[B, T, *axes]``.
        d_finals: cotangents of the final states, ``[B, *axes]``; those not named are zero.
        initial_state: states ``[B, *axes]``.
        adjoint: the adjoint to run, by default that of ``differentiate``.
    """
    adjoint = differentiate(recurrence) if adjoint is None else adjoint
    evaluate, inputs, parameters, states = start(recurrence, tensors, initial_state or {})
    _, batch, length = sequence_shape(recurrence, tensors)
    order = list(range(length))
    if recurrence.reverse:
        order.reverse()
    incoming = []
    for t in order:
        incoming.append(states)
        values = parameters | {name: value[:, t] for name, value in inputs.items()} | states
        evaluate.run(recurrence.assignments, values)
        states = {recurrence.state(s).incoming: values[v] for s, v in recurrence.final}

    result = {n: torch.zeros_like(t) for n, t in tensors.items()}
    zero = evaluate.number(0.0)
    carried = {s.name: zero for s in recurrence.states}
    carried |= {n: evaluate.load(d, recurrence.state(n).axes) for n, d in d_finals.items()}
    seeds = {f"d_{o.name}": evaluate.load(d_outputs[o.name], o.axes, 2) for o in recurrence.outputs}
    for t, before in zip(reversed(order), reversed(incoming), strict=True):
        values = parameters | {name: value[:, t] for name, value in inputs.items()} | before
        values |= {name: value[:, t] for name, value in seeds.items()}
        values |= {f"d_{name}_next": value for name, value in carried.items()}
        evaluate.run((*adjoint.forward, *adjoint.backward), values)
        leaves = _leaves(evaluate, adjoint, values)
        carried = {s.name: leaves.get(s.incoming, zero) for s in recurrence.states}
        for tensor in recurrence.tensors:
            if tensor.name not in tensors or tensor.value not in leaves:
                continue
            own = evaluate.store(leaves[tensor.value], tensor.axes, batch)
            if tensor.kind == "input":
                result[tensor.name][:, t] = own
            else:
                result[tensor.name] += own.sum(0)
    initial = {s.name: evaluate.store(carried[s.name], s.axes, batch) for s in recurrence.states}
    return result, initial


def _leaves(evaluate: Evaluator, adjoint: Adjoint, values: Values) -> Values:
    """Gradients by value name; those of micro-step slices put in their places."""
    leaves: Values = {}
    for ref, gradient in adjoint.gradients:
        value = evaluate(gradient, values)
        for axis, index in ref.at:
            sizes = [1] * value.dim()
            sizes[evaluate.dim[axis]] = evaluate.sizes[axis]
            slot = value.new_zeros(sizes)
            slot.select(evaluate.dim[axis], index).fill_(1.0)
            value = value * slot
        leaves[ref.name] = leaves[ref.name] + value if ref.name in leaves else value
    return leaves
