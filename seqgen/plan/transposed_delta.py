"""The chunkwise schedule for an erase along the value axis (Oja's rule).

The update is a delta rule for the transposed state, but queries read the other axis. Backward is
that of the vector_delta schedule, with the gradient of what was read for queries and queries for
that gradient. Forward scores, solves and walks like it; its output is that of the transposed
schedule, with what is added to the state for keys.
"""

from __future__ import annotations

from dataclasses import replace

from seqgen.gpu.table import Gpu
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.gates import gate_notes
from seqgen.plan.linear import TILES, row_spaces
from seqgen.plan.linear_epilogue import plan_epilogue
from seqgen.plan.linear_rows import plan_rows
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.plan.transposed import OUTPUT, READ, output_spaces
from seqgen.plan.transposed_delta_calls import TransposedDeltaCalls
from seqgen.plan.transposed_kernels import plan_transposed_kernels
from seqgen.plan.transposed_roles import transposed
from seqgen.plan.vector_delta import HELPERS, LARGE, vector_delta_spaces
from seqgen.plan.vector_delta_kernels import plan_vector_delta_kernels
from seqgen.plan.vector_delta_roles import find_read_erase_roles

ADDED = "[B, T, H, K], what is added with a token's key"


def plan_transposed_delta(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The chunkwise schedule, for the calls that fit it.

    Raises:
        NoFastFormError: the schedule does not cover the operator.
    """
    roles = find_read_erase_roles(recurrence, structure)
    rows = plan_rows(roles)
    epilogue = plan_epilogue(roles)
    (component,) = structure.components
    _, put, _, gate, *_ = roles.tiles
    exchanged = transposed(roles, roles.tiles[1:])
    before, nothing = component.step.inner != "D", plan_epilogue(exchanged)
    shared = plan_vector_delta_kernels(exchanged, rows, nothing, before, gpu)
    plan = plan_transposed_kernels(roles, rows, epilogue, ADDED, put, gate)
    calls = TransposedDeltaCalls(roles, rows, epilogue, shared)
    parts = [KernelPart(name, template, shared) for name, template in LARGE]
    parts += [KernelPart(name, template, plan) for name, template in (READ, *OUTPUT)]
    small = [t for t in (rows.forward, rows.backward, epilogue.backward) if t is not None]
    parts += [KernelPart(tiles.name, TILES, tiles) for tiles in small]
    template = "kernels/transposed_delta_calls.py.jinja"
    parts.append(KernelPart("transposed_delta", template, calls.plan()))
    call = f"{', '.join(calls.arguments)}, cu_seqlens, sizes"
    results = f"{roles.output.name}, {roles.state.name}_final"
    backward = f"_transposed_delta_backward({call}, {', '.join(calls.cotangents)}, kept)"
    spaces = (
        replace(space, role="bwd") if space.kernel == "vector_delta_output" else space
        for space in vector_delta_spaces(gpu, shared.own)
    )
    return SchedulePlan(
        name="transposed_delta",
        helpers=(*HELPERS, *(["linear_decay"] if shared.write else [])),
        kernels=tuple(parts),
        fits=calls.fits,
        forward_call=(f"{results} = _transposed_delta_forward({call}, want_final, kept)",),
        backward_call=(f"gradients = {backward}",),
        spaces=(*spaces, *output_spaces(gpu), *row_spaces(small)),
        notes=gate_notes(recurrence, structure),
        fallback=calls.fallback,
        keeps=calls.keeps,
    )
