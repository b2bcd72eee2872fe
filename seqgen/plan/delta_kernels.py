"""The large kernels of the delta schedule: what their templates place.

Backward leaves row sums [planes, chunks, H, 64], of which linear_rows_backward makes the gradients
of decays and weights. NB is the number of blocks of keys; the planes of a group are to be added:

* for the decay: 2 of sums over pairs j < i, per token i and per token j; NB of what erases and NB
  of what reads find in the state; NB of what tokens leave in it, and NB of zeros; NB of what passes
  through the chunk (at token 0), and NB of zeros;
* for each weight there is, of write, read and erase: NB of sums over pairs (block 0 has them all;
  for the write also of what tokens leave), and NB of what is found (for the write zeros).
"""

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
        erase: whether erases have a weight (writes and reads: see ``base``).
        write_plane: Triton text: first plane of the sums for the gradient of the weight of writes;
            ``read_plane`` and ``erase_plane`` likewise; "" without the weight.
        sums: whether decays or weights have gradients, which are made of row sums.
        erase_sum: whether sums over what the erases find in the state are needed.
        read_sum: whether sums over what the queries find there are needed.
        weigh: Triton text that multiplies pairs [j, i] by the weight of write j.
        loads: Triton lines that load the decays and the weights that exist.
        write_text: Triton text: load of the weight of writes, or "one" without; ``read_text`` and
            ``erase_text`` likewise.
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
    loads: tuple[str, ...]
    write_text: str
    read_text: str
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
        loads=tuple(decays + [f"{kind} = {_load(kind)}" for kind in present]),
        write_text=_load("write") if "write" in present else "one",
        read_text=_load("read") if "read" in present else "one",
        erase_text=_load("erase") if "erase" in present else "one",
        planes=count,
    )


_DECAYS = (("high, low", "i"), ("end_high, end_low", "63"))


def _load(kind: str) -> str:
    return f"tl.load({kind}_ptr + in_rows * 64 + i)"
