"""Row factors and computed tiles of the linear schedule, and their gradients."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.ir.expr import Expr, Number, Ref
from seqgen.ir.recurrence import Assignment
from seqgen.passes.differentiate import reverse_mode
from seqgen.passes.sharing import fresh_names, prune, share
from seqgen.plan.linear_roles import Leaf, Role, Roles, check_tiles
from seqgen.plan.linear_tiles import (
    Scope,
    TilesBuilder,
    TilesPlan,
    axes_of,
    leaves_of,
    reads_of,
    unique,
)
from seqgen.plan.tile import Tile

FORWARD, BACKWARD = "linear_rows", "linear_rows_backward"
LOG2_OF_E = "1.4426950408889634"


@dataclass(frozen=True)
class Rows:
    """The two kernels, and what they are asked for.

    Attributes:
        forward: kernel of decays, weights and computed tiles; None if all roles are tensors.
        backward: kernel of the gradients of the tensors that ``forward`` reads; or None.
        computed: roles whose tiles ``forward`` stores.
        gradients: tensors that ``backward`` gives gradients of, in the order of its results.
        covered: values whose gradient as a role's tile is part of what ``backward`` gives.
        arguments: tensors that both launchers take.
        seeds: roles whose tile gradients ``backward`` takes, in the order of its arguments.
        decay_gradient: whether any tensor takes part in the decay.
    """

    forward: TilesPlan | None
    backward: TilesPlan | None
    computed: tuple[Role, ...]
    gradients: tuple[Leaf, ...]
    covered: frozenset[str]
    arguments: tuple[Leaf, ...]
    backward_arguments: tuple[Leaf, ...]
    seeds: tuple[Role, ...]
    decay_gradient: bool


@dataclass(frozen=True)
class _Value:
    """One result of the row program: ``kind`` is decay, write, read or the name of a role."""

    kind: str
    name: str
    value: Expr


def plan_rows(roles: Roles) -> Rows:
    """The row kernels of an operator.

    Raises:
        NoFastFormError: a value needs more than one tile of 64 tokens.
    """
    taken = {a.name for a in roles.lets} | {leaf.tensor.value for leaf in roles.leaves}
    wanted = list(row_factors(roles))
    computed = tuple(role for role in roles.tiles if role.leaf is None)
    wanted += [(role.name, role.tile) for role in computed]
    values = [
        _Value(kind, unique(_NAMES[kind], taken), value)
        for kind, value in wanted
        if value is not None
    ]
    program = _program(roles, values)
    if not values:
        none = frozenset[str]()
        return Rows(None, None, computed, (), none, (), (), (), False)
    check_tiles((a.value for a in program), roles, (roles.key, roles.value))
    leaves = leaves_of(roles, program)
    forward = _forward(roles, values, program, leaves)
    used = {leaf.tensor.value for leaf in leaves}
    shared = [role for role in roles.tiles if role.leaf and role.leaf.tensor.value in used]
    back = values + [
        _Value(role.name, unique(_NAMES[role.name], taken), role.tile) for role in shared
    ]
    backward, gradients, arguments, seeds, decay_gradient = _backward(roles, back, leaves)
    covered = frozenset(role.leaf.tensor.value for role in shared if role.leaf is not None)
    named = {role.name: role for role in roles.tiles}
    return Rows(
        forward,
        backward,
        computed,
        gradients,
        covered & {leaf.tensor.value for leaf in gradients},
        leaves,
        arguments,
        tuple(named[name] for name in seeds),
        decay_gradient,
    )


def row_factors(roles: Roles) -> tuple[tuple[str, Expr | None], ...]:
    """The decay and the weights, in the order of the launchers' results."""
    factors = (("decay", roles.decay), ("write", roles.write), ("read", roles.read))
    return factors if roles.erase is None else (*factors, ("erase", roles.erase))


_NAMES = {
    "decay": "log_decay",
    "write": "write_weight",
    "read": "read_weight",
    "erase": "erase_weight",
    "query": "query",
    "key": "key",
    "value": "value",
    "gate": "log_decay",
    "value_gate": "value_log_decay",
    "erase_key": "erase_key",
    "put": "put_key",
}
_NOTES = {
    "decay": "prefix sums of the log2 decays",
    "write": "weights of the writes",
    "read": "weights of the reads",
    "erase": "weights of the erases",
}
WEIGHTS = ("write", "read", "erase")


def _program(roles: Roles, values: list[_Value]) -> tuple[Assignment, ...]:
    """The assignments that the values need, with names for what is used twice."""
    ends = [Assignment(value.name, value.value) for value in values]
    names = {a.name for a in (*roles.lets, *ends)} | {t.tensor.value for t in roles.leaves}
    needed = prune([*roles.lets, *ends], [a.name for a in ends])
    return prune(share(needed, fresh_names(names)), [a.name for a in ends])


def _scope(roles: Roles, values: list[_Value], program: tuple[Assignment, ...]) -> Scope:
    axes = axes_of(roles, [a.value for a in program])
    extra = [r.axis for r in roles.tiles if any(v.kind == r.name for v in values)]
    tiles = tuple(a for a in (roles.key, roles.value) if a in {*axes, *extra})
    # One decay per token and head is summed over the chunk.
    return Scope(roles, tiles, parted=bool(tiles) and roles.decay is None)


def _forward(
    roles: Roles, values: list[_Value], program: tuple[Assignment, ...], leaves: tuple[Leaf, ...]
) -> TilesPlan:
    scope = _scope(roles, values, program)
    kinds = ", ".join(_NOTES.get(v.kind, f"tiles of the {v.kind}") for v in values)
    about = f"Per token and head: {kinds}."
    builder = TilesBuilder(scope, FORWARD, about)
    builder.leaves(leaves)
    printer = scope.printer(leaves)
    axis = {role.name: role.axis for role in roles.tiles}
    wide = {role.name for role in roles.tiles if role.wide}
    full = {v.name: ("T", roles.head, *([axis[v.kind]] if v.kind in axis else [])) for v in values}
    builder.program += printer.assignments(program, full)
    for value in values:
        name = scope.name(value.name)
        if value.kind == "decay":
            shape = "(1 + (io.dtype == torch.float32), chunks.count, H, 64)"
            builder.result("decay", "[planes, chunks, H, 64]", shape, "torch.float32")
            builder.stores += [
                f"# {_NOTES['decay']}, with the rest that fp32 results need",
                f"log2_decay = tl.where(exists, {name}, 0.0) * {LOG2_OF_E}",
                "high, low = split_decay(log2_decay)",
                "high, low = tl.cumsum(high, 0), tl.cumsum(low, 0)",
                "place = decay_ptr + in_rows[None, :] + i[:, None]",
                "if EXACT:",
                "    tl.store(place, high, mask=m_h[None, :])",
                "    tl.store(place + PLANE, low, mask=m_h[None, :])",
                "else:",
                "    tl.store(place, high + low, mask=m_h[None, :])",
            ]
        elif value.kind in WEIGHTS:
            shape = "(chunks.count, H, 64)"
            builder.result(value.kind, "[chunks, H, 64]", shape, "torch.float32")
            builder.stores += [
                f"place = {value.kind}_ptr + in_rows[None, :] + i[:, None]",
                f"tl.store(place, tl.where(exists, {name}, 0.0), mask=m_h[None, :])",
            ]
        else:
            size = scope.tiling.any(axis[value.kind]).size
            shape = f'(sizes["B"], sizes["T"], H, {size})'
            tile = f"{value.kind}_tile"
            dtype = "torch.float32" if value.kind in wide else "io.dtype"
            builder.result(tile, f"[B, T, H, {size}]", shape, dtype, zero=True)
            dims = scope.tiling.tile(("T", roles.head, axis[value.kind]))
            place = scope.place(dims, (roles.head, axis[value.kind]), "H", "row")
            text = f"{name}.to({tile}_ptr.dtype.element_ty)"
            builder.stores.append(
                f"tl.store({tile}_ptr + {place}, {text}, mask={scope.mask(dims)})"
            )
    return builder.plan()


def _backward(
    roles: Roles, values: list[_Value], leaves: tuple[Leaf, ...]
) -> tuple[TilesPlan | None, tuple[Leaf, ...], tuple[Leaf, ...], list[str], bool]:
    program = _program(roles, values)
    taken = {a.name for a in program} | {leaf.tensor.value for leaf in leaves}
    seeds = {}
    for value in values:
        axis = {role.name: role.axis for role in roles.tiles}.get(value.kind)
        axes = (roles.head,) if axis is None else (roles.head, axis)
        seeds[value.name] = Ref(unique(f"d_{value.name}", taken), axes)
    wrt = [Ref(leaf.tensor.value, leaf.axes) for leaf in leaves]
    order = (roles.head, *(axis.name for axis in roles.recurrence.axes))
    adjoint = reverse_mode(program, seeds, wrt, order)
    found = [(leaf, adjoint.gradient(leaf.tensor.value)) for leaf in leaves]
    found = [(leaf, gradient) for leaf, gradient in found if gradient != Number(0.0)]
    if not found:
        return None, (), (), [], False
    everything = [*adjoint.forward, *adjoint.backward]
    ends = [Assignment(f"gradient {n}", gradient) for n, (_, gradient) in enumerate(found)]
    check_tiles((a.value for a in (*everything, *ends)), roles, (roles.key, roles.value))
    reads = reads_of(a.value for a in (*everything, *ends))
    needed = leaves_of(roles, (*everything, *ends))
    scope = _scope(roles, [v for v in values if v.kind not in _NOTES], (*everything, *ends))
    builder = TilesBuilder(scope, BACKWARD, "Gradients of the tensors behind the row factors.")
    builder.leaves(needed)
    printer = scope.printer(needed)
    used: list[str] = []  # in the order of the launcher's arguments
    weights = [v.kind for v in values if v.kind in WEIGHTS]
    decay = any(v.kind == "decay" and seeds[v.name].name in reads for v in values)
    if decay or any(seeds[v.name].name in reads for v in values if v.kind in weights):
        builder.tensor("sums_ptr", "[planes, chunks, H, 64]", "sums")
    rows = "in_rows, m_h, i, PLANE, NB"
    dims = scope.tiling.tile(("T", roles.head))
    decayed = any(v.kind == "decay" for v in values) and decay
    for value in values:
        seed = seeds[value.name].name
        if seed not in reads:
            continue
        if value.kind == "decay":
            builder.loads += [
                f"{seed} = decay_gradient(sums_ptr, {rows})",
                f"{seed} = tl.where(exists, {seed}, 0.0)",
            ]
            printer.define(seed, Tile(seed, dims))
        elif value.kind in weights:
            before = weights.index(value.kind)
            start = " + ".join(
                (["(2 + 3 * NB)"] if decayed else [])
                + (["NB"] if before == 1 else [f"{before} * NB"] if before else [])
            )
            pointer = f"sums_ptr + ({start}) * PLANE" if start else "sums_ptr"
            builder.loads += [
                f"{seed} = sum_planes({pointer}, {rows})",
                f"{seed} = tl.where(exists, {seed}, 0.0)",
            ]
            printer.define(seed, Tile(seed, dims))
        else:
            used.append(value.kind)
            axis = next(role.axis for role in roles.tiles if role.name == value.kind)
            printer.define(seed, builder.seed(seed, axis, seed))
    builder.program += printer.assignments((*adjoint.forward, *adjoint.backward), {})
    for leaf, gradient in found:
        builder.gradient(printer, leaf, gradient, unique(f"grad_{leaf.tensor.name}", taken))
    planes = 3 * decayed + len(weights)
    blocks = f"(sums.shape[0] - 2) // {planes}" if decayed else f"sums.shape[0] // {planes or 1}"
    plan = builder.plan({"NB": blocks})
    return plan, tuple(leaf for leaf, _ in found), needed, used, decayed
