"""The chunkwise schedule of the linear family for decays per key and per value channel together.

The decay of a pair of tokens is a product of two: that of keys is part of the scores, as in the
vector schedule, and that of values stands behind them, as in the transposed one. What both compute
is one sum over pairs, to which queries and keys are what gradients of the read and values are.
So the kernels of scores and of gradients run twice, once for each side, and those of what each
side gives to the other are not needed.
"""

from __future__ import annotations

from dataclasses import replace

from seqgen.gpu.table import Gpu
from seqgen.ir.expr import Number, Ref, mul, substitute
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.simplify import simplify
from seqgen.passes.structure import Structure
from seqgen.plan.gates import gate_notes
from seqgen.plan.key_value_calls import KeyValueCalls
from seqgen.plan.linear import TILES, row_spaces
from seqgen.plan.linear_epilogue import plan_epilogue
from seqgen.plan.linear_roles import Role, Roles
from seqgen.plan.linear_rows import plan_rows
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.plan.transposed import DECAYS, OUTPUT, decays_space, output_spaces
from seqgen.plan.transposed_kernels import plan_transposed_kernels
from seqgen.plan.vector import HELPERS, LARGE, vector_spaces
from seqgen.plan.vector_kernels import plan_vector_kernels
from seqgen.plan.vector_roles import find_channel_roles

ONE_SIDED = ("vector_output", "vector_values")
"""Kernels of the vector schedule that give one side's scores to the other side."""
READ = ("transposed_output", "kernels/key_value_read.py.jinja")


def plan_key_value(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The chunkwise schedule, for the calls that fit it.

    Raises:
        NoFastFormError: the schedule does not cover the operator.
    """
    roles = _scaled_output(find_channel_roles(recurrence, structure))
    rows = plan_rows(roles)
    epilogue = plan_epilogue(roles)
    query, key, value, *gates = roles.tiles
    read = replace(roles, tiles=(_decayed(query), key, value, *gates))
    plan = plan_transposed_kernels(read, rows, epilogue, None, value, gates[1])
    walked = replace(roles, tiles=(query, key, _decayed(value), *gates))
    shared = plan_vector_kernels(walked, rows, epilogue)
    calls = KeyValueCalls(roles, rows, epilogue, shared.signed)
    parts = [KernelPart(name, template, plan) for name, template in (DECAYS, READ, *OUTPUT)]
    parts += [KernelPart(name, text, shared) for name, text in LARGE if name not in ONE_SIDED]
    small = [t for t in (rows.forward, rows.backward, epilogue.backward) if t is not None]
    parts += [KernelPart(tiles.name, TILES, tiles) for tiles in small]
    parts.append(KernelPart("key_value", "kernels/key_value_calls.py.jinja", calls.plan()))
    call = f"{', '.join(calls.arguments)}, cu_seqlens, sizes"
    results = f"{roles.output.name}, {roles.state.name}_final"
    forward = f"{results} = _key_value_forward({call}, want_final, kept)"
    backward = f"gradients = _key_value_backward({call}, {', '.join(calls.cotangents)}, kept)"
    spaces = (space for space in vector_spaces(gpu) if space.kernel not in ONE_SIDED)
    return SchedulePlan(
        name="key_value",
        helpers=HELPERS,
        kernels=tuple(parts),
        fits=calls.fits,
        forward_call=(forward,),
        backward_call=(backward,),
        spaces=(decays_space(gpu), *output_spaces(gpu), *spaces, *row_spaces(small)),
        notes=gate_notes(recurrence, structure),
        fallback=calls.fallback,
        keeps=calls.keeps,
    )


def _scaled_output(roles: Roles) -> Roles:
    """Roles whose output has the scale: in scores it would come twice, once with each side."""
    read = Ref(roles.source, (roles.head, roles.value))
    value = substitute(roles.output.value, {roles.source: mul(roles.scale, read)})
    output = replace(roles.output, value=simplify(value))
    return replace(roles, scale=Number(1.0), output=output)


def _decayed(role: Role) -> Role:
    """What kernels take for a role once it is decayed, one tile per head."""
    return Role(f"decayed {role.name}", role.axis, role.tile, None)
