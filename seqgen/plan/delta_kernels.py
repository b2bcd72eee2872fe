"""The large kernels of the delta schedule: what their templates place.

Backward leaves row sums [planes, chunks, H, 64], of which linear_rows_backward makes the gradients
of decays and weights. NB is the number of blocks of keys; the planes of a group are to be added:

* for the decay: 2 of sums over pairs j < i, per token i and per token j; NB of what erases and NB
  of what reads find in the state; NB of what tokens leave in it, and NB of zeros; NB of what passes
  through the chunk (at token 0), and NB of zeros;
* for each weight that is given, of write, read and erase: NB of sums over pairs (block 0 has them
  all; for the write also of what tokens leave), and NB of what is found (for the write zeros).
"""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.plan.delta_norms import Norm, NormsPlan, plan_norms
from seqgen.plan.linear_epilogue import Epilogue
from seqgen.plan.linear_kernels import LinearPlan, Lines, plan_kernels
from seqgen.plan.linear_roles import Roles
from seqgen.plan.linear_rows import WEIGHTS, Rows


@dataclass(frozen=True)
class DeltaPlan:
    """Everything that the templates kernels/delta_*.py.jinja of large kernels place.

    Attributes:
        base: what they share with the linear schedule.
        write: whether writes have a weight, given or made of a norm; ``read`` and ``erase``
            likewise.
        write_plane: Triton text: first plane of the sums for the gradient of the weight of writes
            that is given; ``read_plane`` and ``erase_plane`` likewise; "" without such a weight.
        sums: whether decays or weights that are given have gradients, which are made of row sums.
        keys_again: whether backward asks again for its block of the keys; ``queries_again``
            likewise.
        erase_sum: whether sums over what the erases find in the state are needed.
        read_sum: whether sums over what the queries find there are needed.
        weigh: Triton text that multiplies pairs [j, i] by the weight of write j.
        by_write: Triton text that multiplies by the weights of writes, or ""; ``by_read`` and
            ``by_erase`` likewise.
        row_parameters: parameters of the decay and the weights that are given.
        row_arguments: the same, in launchers.
        loads: Triton lines that load the decays and the weights that exist.
        write_text: Triton text of the weight of writes, or "one" without; ``read_text`` and
            ``erase_text`` likewise.
        planes: Python text: how many planes of sums there are.
        norms: norms of keys and queries.
    """

    base: LinearPlan
    write: bool
    read: bool
    erase: bool
    write_plane: str
    read_plane: str
    erase_plane: str
    sums: bool
    keys_again: bool
    queries_again: bool
    erase_sum: bool
    read_sum: bool
    weigh: str
    by_write: str
    by_read: str
    by_erase: str
    row_parameters: Lines
    row_arguments: Lines
    loads: Lines
    write_text: str
    read_text: str
    erase_text: str
    planes: str
    norms: NormsPlan


def plan_delta_kernels(
    roles: Roles, rows: Rows, epilogue: Epilogue, norms: tuple[Norm, ...]
) -> DeltaPlan:
    """The plan of all large kernels; ``norms`` are those that ``roles`` have no more."""
    base = plan_kernels(roles, rows, epilogue)
    values = (roles.write, roles.read, roles.erase)
    given = [kind for kind, value in zip(WEIGHTS, values, strict=True) if value is not None]
    start = "2 + 3 * NS + " if rows.decay_gradient else ""
    planes = {kind: f"{start}{n} * NS + b" for n, kind in enumerate(given)}
    count = f"{2 * len(given)} * n_blocks"
    if rows.decay_gradient:
        count = f"2 + {6 + 2 * len(given)} * n_blocks"
    decays = []
    if roles.decay is not None:
        decays = [
            f"{name} = load_decay(decay_ptr, chunk, h, {at}, PLANE, H, EXACT)"
            for name, at in _DECAYS
        ]
    erase_sum = rows.decay_gradient or "erase" in given
    read_sum = rows.decay_gradient or "read" in given
    normed = plan_norms(norms)
    weights = _weights(given, norms)
    row_names = [*(["decay"] if roles.decay is not None else []), *given]
    return DeltaPlan(
        base=base,
        write="write" in weights,
        read="read" in weights,
        erase="erase" in weights,
        write_plane=planes.get("write", ""),
        read_plane=planes.get("read", ""),
        erase_plane=planes.get("erase", ""),
        sums=rows.decay_gradient or bool(given),
        keys_again=erase_sum or bool(normed.key),
        queries_again=read_sum or bool(normed.query),
        erase_sum=erase_sum,
        read_sum=read_sum,
        weigh=" * write[:, None]" if "write" in weights else "",
        by_write=" * write" if "write" in weights else "",
        by_read=" * read" if "read" in weights else "",
        by_erase=" * erase" if "erase" in weights else "",
        row_parameters=tuple(f"{name}_ptr,  # {_COMMENTS[name]}" for name in row_names),
        row_arguments=tuple(f"{name}," for name in row_names),
        loads=(*decays, *normed.loads, *(f"{kind} = {text}" for kind, text in weights.items())),
        write_text=weights.get("write", "one"),
        read_text=weights.get("read", "one"),
        erase_text=weights.get("erase", "one"),
        planes=count,
        norms=normed,
    )


_DECAYS = (("high, low", "i"), ("end_high, end_low", "63"))
_COMMENTS = {
    "decay": "[planes, chunks, H, 64], log2",
    "write": "[chunks, H, 64], weight of each write",
    "read": "[chunks, H, 64], weight of each read",
    "erase": "[chunks, H, 64], weight of each erase",
}


def _weights(given: list[str], norms: tuple[Norm, ...]) -> dict[str, str]:
    """Triton text of each weight there is: what is given, times the norm."""
    weights = {}
    for kind in WEIGHTS:
        factors = [f"tl.load({kind}_ptr + in_rows * 64 + i)"] if kind in given else []
        factors += [norm.factor for norm in norms if kind in norm.weights]
        if factors:
            weights[kind] = " * ".join(factors)
    return weights
