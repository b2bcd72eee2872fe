"""The chunkwise schedule of the linear family, for decays that are one number per token and head.

States pass from chunk to chunk of 64 tokens in one kernel; outputs, and all gradients, of a chunk
are matrix products that need only its own tensors and the state before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from seqgen.gpu.table import Gpu
from seqgen.ir.recurrence import Recurrence
from seqgen.passes.structure import Structure
from seqgen.plan.knobs import Config, KernelSpace, Knob
from seqgen.plan.linear_calls import Calls
from seqgen.plan.linear_epilogue import plan_epilogue
from seqgen.plan.linear_kernels import plan_kernels
from seqgen.plan.linear_roles import find_roles
from seqgen.plan.linear_rows import plan_rows
from seqgen.plan.linear_tiles import TilesPlan
from seqgen.plan.schedule import KernelPart, SchedulePlan

Lines = tuple[str, ...]
BLOCKS = (16, 32, 64, 128)
LARGE = (
    ("linear_state", "kernels/linear_state.py.jinja"),
    ("linear_output", "kernels/linear_output.py.jinja"),
    ("linear_output", "kernels/linear_output_launch.py.jinja"),
    ("linear_states", "kernels/linear_states.py.jinja"),
    ("linear_backward", "kernels/linear_backward.py.jinja"),
    ("linear_backward", "kernels/linear_backward_launch.py.jinja"),
)
HELPERS = ("keep", "linear", "linear_decay", "linear_host", "descriptors", "linear_walk")
TILES = "kernels/linear_tiles.py.jinja"

# The best on an H200. Products there leave operands in shared memory and run beside other work.
HOPPER: dict[str, Config] = {
    "linear_state": {"BK": 64, "BV": 64, "num_stages": 4, "num_warps": 4},
    "linear_output": {"BK": 128, "BV": 128, "num_warps": 4, "maxnreg": 0},
    "linear_states": {"BK": 128, "BV": 64, "num_stages": 3, "num_warps": 4},
    "linear_backward": {"BK": 128, "BV": 128, "descriptors": True, "num_warps": 4, "maxnreg": 0},
}
# Operands are in registers, and descriptors are only emulated: chosen by spills, not by times.
AMPERE: dict[str, Config] = {
    **HOPPER,
    "linear_state": {**HOPPER["linear_state"], "num_warps": 8},
    "linear_states": {**HOPPER["linear_states"], "num_warps": 8},
    "linear_backward": {**HOPPER["linear_backward"], "descriptors": False, "num_warps": 8},
}
CDNA: dict[str, Config] = {
    **HOPPER,
    "linear_backward": {**HOPPER["linear_backward"], "descriptors": False, "BK": 64, "BV": 64},
}


def plan_linear(recurrence: Recurrence, structure: Structure, gpu: Gpu) -> SchedulePlan:
    """The chunkwise schedule, for the calls that fit it.

    Raises:
        NoFastFormError: the schedule does not cover the operator.
    """
    roles = find_roles(recurrence, structure)
    rows = plan_rows(roles)
    epilogue = plan_epilogue(roles)
    calls = Calls(roles, rows, epilogue)
    plan = plan_kernels(roles, rows, epilogue)
    parts = [KernelPart(name, template, plan) for name, template in LARGE]
    small = [t for t in (rows.forward, rows.backward, epilogue.backward) if t is not None]
    parts += [KernelPart(tiles.name, TILES, tiles) for tiles in small]
    parts.append(KernelPart("linear", "kernels/linear_calls.py.jinja", calls.plan()))
    call = f"{', '.join(calls.arguments)}, cu_seqlens, sizes"
    results = [roles.output.name, *(f"{state.name}_final" for state in recurrence.states)]
    forward = f"{', '.join(results)} = _linear_forward({call}, want_final, kept)"
    backward = f"gradients = _linear_backward({call}, {', '.join(calls.cotangents)}, kept)"
    steps = "" if recurrence.reverse else "decode steps, and "
    fallback = f"{steps}calls with T < 16 or {roles.key} or {roles.value} outside 16 to 512"
    widened: Lines = ()
    if roles.normaliser is not None:
        # The gradient of a quotient is a small difference of large terms: half-precision tiles
        # miss the error limit (dq 0.009 in bf16 on an H200).
        names = ", ".join(t.name for t in recurrence.inputs if t.dtype is None)
        widened = (f"{names} = _widened({names})",)
        notes = ("Tensors in float16 or bfloat16 are converted to float32 first.",)
    return SchedulePlan(
        name="linear",
        helpers=(*HELPERS, "normaliser") if widened else HELPERS,
        kernels=tuple(parts),
        notes=notes if widened else (),
        fits="_linear_fits(sizes)",
        forward_call=(*widened, forward),
        backward_call=(*widened, backward),
        spaces=tuple(_spaces(small, _defaults(gpu))),
        fallback=f"The token-serial kernels take {fallback}.",
        keeps=calls.keeps,
    )


def _defaults(gpu: Gpu) -> dict[str, Config]:
    """The configurations of the large kernels that need no measurement, by architecture."""
    if gpu.backend == "hip":
        return CDNA
    return HOPPER if has_async_products(gpu) else AMPERE


def has_async_products(gpu: Gpu) -> bool:
    """Whether products read shared memory beside other work: sm_90 and sm_100, not sm_120."""
    return gpu.backend == "cuda" and 90 <= int(gpu.arch) < 120


def _spaces(small: Iterable[TilesPlan], defaults: dict[str, Config]) -> list[KernelSpace]:
    blocks = [Knob("BK", BLOCKS), Knob("BV", BLOCKS)]
    warps, stages = Knob("num_warps", (4, 8)), Knob("num_stages", (2, 3, 4))
    registers, described = Knob("maxnreg", (0, 168)), Knob("descriptors", (False, True))
    knobs: dict[str, tuple[Literal["fwd", "bwd"], tuple[Knob, ...]]] = {
        "linear_state": ("fwd", (*blocks, stages, warps)),
        "linear_output": ("fwd", (*blocks, warps, registers)),
        "linear_states": ("bwd", (*blocks, stages, warps)),
        "linear_backward": ("bwd", (*blocks, described, warps, registers)),
    }
    spaces = [KernelSpace(name, *about, defaults[name]) for name, about in knobs.items()]
    return [*spaces, *row_spaces(small)]


def row_spaces(small: Iterable[TilesPlan]) -> list[KernelSpace]:
    """The knobs of the pointwise kernels."""
    spaces = []
    for plan in small:
        role: Literal["fwd", "bwd"] = "fwd" if plan.name == "linear_rows" else "bwd"
        own = Knob("num_warps", (1, 2, 4, 8, 16))
        if plan.head_block == "1":
            tokens = [Knob("BT", (8, 16, 32, 64))] if plan.parted else []
            default: Config = {"BT": 16, "num_warps": 4} if plan.parted else {"num_warps": 8}
            spaces.append(KernelSpace(plan.name, role, (*tokens, own), default))
        else:
            heads = Knob("BH", (1, 2, 4, 8, 16, 32))
            spaces.append(KernelSpace(plan.name, role, (heads, own), {"BH": 16, "num_warps": 4}))
    return spaces
