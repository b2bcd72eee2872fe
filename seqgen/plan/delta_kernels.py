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
        erase_sum: whether sums over what the erases find in the state are needed.
        read_sum: whether sums over what the queries find there are needed.
        weigh: Triton text that multiplies pairs [j, i] by the weight of write j.
        factors: loads of decays and weights.
        write: Triton text: weight of the writes, "one" without; ``read``, ``erase_text`` likewise.
        planes: Python text: how many planes of sums there are.
    """

    base: LinearPlan
    erase: bool
    write_plane: str
    read_plane: str
    erase_plane: str
    sums: bool
    erase_sum: bool
    read_sum: bool
    weigh: str
    factors: tuple[str, ...]
    write: str
    read: str
    erase_text: str
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
    decays = []
    if roles.decay is not None:
        decays = [
            f"{name} = load_decay(decay_ptr, chunk, h, {at}, PLANE, H, EXACT)"
            for name, at in _DECAYS
        ]
    return DeltaPlan(
        base=base,
        erase=roles.erase is not None,
        write_plane=planes.get("write", ""),
        read_plane=planes.get("read", ""),
        erase_plane=planes.get("erase", ""),
        sums=rows.decay_gradient or bool(present),
        erase_sum=rows.decay_gradient or "erase" in present,
        read_sum=rows.decay_gradient or "read" in present,
        weigh=" * write[:, None]" if "write" in present else "",
        factors=tuple(decays + [f"{kind} = {_load(kind)}" for kind in present]),
        write=_load("write") if "write" in present else "one",
        read=_load("read") if "read" in present else "one",
        erase_text=_load("erase") if "erase" in present else "one",
        planes=count,
    )


_DECAYS = (("high, low", "i"), ("end_high, end_low", "63"))


def _load(kind: str) -> str:
    return f"tl.load({kind}_ptr + in_rows * 64 + i)"
