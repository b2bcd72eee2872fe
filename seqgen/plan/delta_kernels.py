"""The large kernels of the delta schedule: what their templates place."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, plan_kernels
from seqgen.plan.linear_roles import Roles
from seqgen.plan.linear_rows import WEIGHTS, Rows


@dataclass(frozen=True)
class DeltaPlan:
    """Everything that the templates kernels/delta_*.py.jinja of large kernels place.

    Attributes:
        base: what they share with the linear schedule.
        erase: whether erases have a weight.
        write_plane: Triton text: plane of the sums for the gradient of a weight.
        sums: whether decays or weights have gradients, which are made of row sums.
        planes: Python text: how many planes of sums there are.
    """

    base: LinearPlan
    erase: bool
    write_plane: str
    read_plane: str
    erase_plane: str
    sums: bool
    planes: str


def plan_delta_kernels(roles: Roles, rows: Rows, epilogue: Epilogue) -> DeltaPlan:
    """The plan of all large kernels."""
    base = plan_kernels(roles, rows, epilogue)
    given = (roles.write, roles.read, roles.erase)
    present = [kind for kind, value in zip(WEIGHTS, given, strict=True) if value is not None]
    start = "2 + 3 * NS + " if rows.decay_gradient else ""
    planes = {kind: f"{start}{n} * NS + b" for n, kind in enumerate(present)}
    count = f"{2 * len(present)} * n_blocks"
    if rows.decay_gradient:
        count = f"2 + {6 + 2 * len(present)} * n_blocks"
    return DeltaPlan(
        base=base,
        erase=roles.erase is not None,
        write_plane=planes.get("write", ""),
        read_plane=planes.get("read", ""),
        erase_plane=planes.get("erase", ""),
        sums=rows.decay_gradient or bool(present),
        planes=count,
    )
