"""The chunkwise schedule of the linear family for one decay per token, head and value channel.

The transposed state has one decay per key channel, so backward is that of the vector schedule with
other tensors: values for keys, keys for values, the gradient of what was read for queries, and
queries for that gradient. Forward is the part of it that gives the gradient of these queries.
"""

from __future__ import annotations

from dataclasses import replace

from seqgen.gpu.table import Gpu
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.gates import gate_notes
from seqgen.plan.knobs import Config, KernelSpace, Knob
from seqgen.plan.linear import BLOCKS, TILES, has_async_products, row_spaces
from seqgen.plan.linear_epilogue import plan_epilogue
from seqgen.plan.linear_kernels import operand
from seqgen.plan.linear_rows import plan_rows
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.plan.transposed_calls import TransposedCalls
from seqgen.plan.transposed_kernels import plan_transposed_kernels
from seqgen.plan.transposed_roles import transposed
from seqgen.plan.vector import HELPERS, LARGE, strong_space, vector_spaces
from seqgen.plan.vector_kernels import plan_vector_kernels
from seqgen.plan.vector_roles import find_channel_roles

DECAYS = ("transposed_decays", "kernels/transposed_decays.py.jinja")
READ = ("transposed_output", "kernels/transposed_read.py.jinja")
OUTPUT = (
    ("transposed_output", "kernels/transposed_output.py.jinja"),
    ("transposed_output", "kernels/transposed_output_launch.py.jinja"),
    ("transposed_output_strong", "kernels/transposed_output_strong.py.jinja"),
)


def plan_transposed(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The chunkwise schedule, for the calls that fit it.

    Raises:
        NoFastFormError: the schedule does not cover the operator.
    """
    roles = find_channel_roles(recurrence, structure)
    rows = plan_rows(roles)
    epilogue = plan_epilogue(roles)
    _, key, value, gate = roles.tiles
    exchanged = transposed(roles, (value, key, gate))
    plan = plan_transposed_kernels(roles, rows, epilogue, operand(key), value, gate)
    shared = plan_vector_kernels(exchanged, rows, plan_epilogue(exchanged))
    calls = TransposedCalls(roles, rows, epilogue, plan.signed)
    parts = [KernelPart(name, template, plan) for name, template in (DECAYS, READ, *OUTPUT)]
    parts += [KernelPart(name, template, shared) for name, template in LARGE]
    small = [t for t in (rows.forward, rows.backward, epilogue.backward) if t is not None]
    parts += [KernelPart(tiles.name, TILES, tiles) for tiles in small]
    parts.append(KernelPart("transposed", "kernels/transposed_calls.py.jinja", calls.plan()))
    call = f"{', '.join(calls.arguments)}, cu_seqlens, sizes"
    results = f"{roles.output.name}, {roles.state.name}_final"
    forward = f"{results} = _transposed_forward({call}, want_final, kept)"
    backward = f"gradients = _transposed_backward({call}, {', '.join(calls.cotangents)}, kept)"
    return SchedulePlan(
        name="transposed",
        helpers=HELPERS,
        kernels=tuple(parts),
        fits=calls.fits,
        forward_call=(forward,),
        backward_call=(backward,),
        spaces=(*_spaces(gpu), *row_spaces(small)),
        notes=gate_notes(recurrence, structure),
        fallback=calls.fallback,
        keeps=calls.keeps,
    )


def _spaces(gpu: Gpu) -> list[KernelSpace]:
    shared = (
        space if space.kernel == "vector_state" else replace(space, role="bwd")
        for space in vector_spaces(gpu)
    )
    return [decays_space(gpu), *output_spaces(gpu), *shared]


def decays_space(gpu: Gpu) -> KernelSpace:
    """The knobs of the kernel that decays values."""
    columns, warps = _columns(gpu), Knob("num_warps", (4, 8))
    config: Config = {"BV": columns.values[0], "num_warps": 4}
    return KernelSpace("transposed_decays", "fwd", (columns, warps), config)


def output_spaces(gpu: Gpu) -> list[KernelSpace]:
    """The knobs of the kernels of the output."""
    columns, keys = _columns(gpu), Knob("BK", BLOCKS)
    stages, warps = Knob("num_stages", (1, 2, 3)), Knob("num_warps", (4, 8))
    # Nothing is loaded ahead where products are async: see the gradients of the vector schedule.
    most, ahead = (128, 1) if has_async_products(gpu) else (64, 2)
    config: Config = {"BK": most, "BV": columns.values[0], "num_stages": ahead, "num_warps": 4}
    return [
        KernelSpace("transposed_output", "fwd", (keys, columns, stages, warps), config),
        strong_space("transposed_output_strong", "fwd", config),
    ]


def _columns(gpu: Gpu) -> Knob:
    # Narrower products are wrong where they are async: see the vector schedule.
    return Knob("BV", (64, 128) if has_async_products(gpu) else (32, 64, 128))
