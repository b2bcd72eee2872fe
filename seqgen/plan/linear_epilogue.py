"""From what is read to the output, and back: the pointwise end of the linear schedule."""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.ir.expr import Expr, IfPresent, Number, Reduce, Ref, walk
from seqgen.ir.recurrence import Assignment
from seqgen.passes.differentiate import Adjoint, reverse_mode
from seqgen.passes.sharing import fresh_names, share
from seqgen.passes.simplify import simplify
from seqgen.plan.linear_roles import Leaf, NoFastFormError, Roles, check_tiles
from seqgen.plan.linear_tiles import (
    Scope,
    TilesBuilder,
    TilesPlan,
    argument,
    flags,
    leaf_parameters,
    leaves_of,
    reads_of,
    unique,
)

BACKWARD = "linear_epilogue_backward"
Lines = tuple[str, ...]


@dataclass(frozen=True)
class Epilogue:
    """Texts for the output kernel, and the kernel of the gradients.

    Attributes:
        lines: from ``read`` to ``result`` in the output kernel; empty if they are the same.
        leaves: tensors that the output reads besides the state.
        backward: gradient of what was read, and of ``gradients``.
        recompute: Python text: whether ``backward`` needs what was read; "" if never.
    """

    lines: Lines
    leaves: tuple[Leaf, ...]
    parameters: Lines
    constants: Lines
    launch: Lines
    values: Lines
    backward: TilesPlan | None
    backward_leaves: tuple[Leaf, ...]
    gradients: tuple[Leaf, ...]
    recompute: str


def plan_epilogue(roles: Roles) -> Epilogue:
    """The end of an operator.

    Raises:
        NoFastFormError: it is not pointwise in the value axis.
    """
    value = roles.output.value
    source = Ref(roles.source, (roles.head, roles.value))
    if isinstance(value, Ref) and value.name == roles.source:
        return Epilogue((), (), (), (), (), (), None, (), (), "")
    taken = {leaf.tensor.value for leaf in roles.leaves} | {roles.source}
    result = unique("result", taken)
    program = share([Assignment(result, value)], fresh_names(taken | {result}))
    try:
        check_tiles((a.value for a in program), roles, (roles.value,))
        _no_reduction(program)
    except NoFastFormError as error:
        raise NoFastFormError(str(error), roles.output.name) from error
    leaves = leaves_of(roles, program)
    scope = Scope(roles, (roles.value,), fused=True)
    scope.names[roles.source] = "read"
    scope.names[result] = "result"
    printer = scope.printer(leaves)
    printer.define(roles.source, printer.leaf(roles.source, ("T", roles.value)))
    lines = scope.leaf_lines(leaves)
    lines += [f"# {_equation(roles)}"]
    lines += printer.assignments(program, {result: ("T", roles.value)})
    named = [argument(leaf.tensor.name) for leaf in leaves]
    constants, values = ["EPILOGUE"], ["EPILOGUE=epilogue"]
    if any("HP" in line for line in lines):
        constants.append("HP")
        values.append(f'HP=sizes["{roles.parent}"]')
    constants += flags(leaves)
    values += [
        f"{flag}={argument(leaf.tensor.name)} is not None"
        for leaf in leaves
        for flag in flags([leaf])
    ]
    adjoint = _adjoint(roles, program, result, source, leaves)
    backward, backward_leaves, gradients = _backward(roles, adjoint, leaves)
    return Epilogue(
        tuple(lines),
        leaves,
        tuple(leaf_parameters(roles, leaves)),
        tuple(f"{name}: tl.constexpr," for name in constants),
        tuple(f"{name}," for name in named),
        tuple(f"{value}," for value in values),
        backward,
        backward_leaves,
        gradients,
        _recompute(roles, program, result, source, leaves),
    )


def _equation(roles: Roles) -> str:
    start = f"{roles.output.name} = "
    return next((e for e in roles.recurrence.equations if e.startswith(start)), start)


def _no_reduction(program: tuple[Assignment, ...]) -> None:
    for assignment in program:
        for node in walk(assignment.value):
            if isinstance(node, Reduce):
                what = "a sum" if node.op == "sum" else "a maximum"
                advice = "a norm can be applied outside of the operator"
                raise NoFastFormError(f"the output takes {what} over {node.axis} ({advice})")


def _adjoint(
    roles: Roles,
    program: tuple[Assignment, ...],
    result: str,
    source: Ref,
    leaves: tuple[Leaf, ...],
) -> Adjoint:
    seeds = {result: Ref(_seed(roles), (roles.head, roles.value))}
    wrt = [source, *(Ref(leaf.tensor.value, leaf.axes) for leaf in leaves)]
    order = (roles.head, *(axis.name for axis in roles.recurrence.axes))
    return reverse_mode(program, seeds, wrt, order)


def _seed(roles: Roles) -> str:
    taken = {leaf.tensor.value for leaf in roles.leaves} | {roles.source}
    return unique("d_output", taken)


def _backward(
    roles: Roles, adjoint: Adjoint, leaves: tuple[Leaf, ...]
) -> tuple[TilesPlan, tuple[Leaf, ...], tuple[Leaf, ...]]:
    found = [(leaf, adjoint.gradient(leaf.tensor.value)) for leaf in leaves]
    found = [(leaf, gradient) for leaf, gradient in found if gradient != Number(0.0)]
    of_read = adjoint.gradient(roles.source)
    ends = [Assignment("", gradient) for gradient in (of_read, *(g for _, g in found))]
    everything = (*adjoint.forward, *adjoint.backward, *ends)
    needed = leaves_of(roles, everything)
    scope = Scope(roles, (roles.value,))
    about = "Gradients of what was read and of the tensors that only the output reads."
    builder = TilesBuilder(scope, BACKWARD, about)
    builder.leaves(needed)
    printer = scope.printer(needed)
    seed = _seed(roles)
    printer.define(seed, builder.seed(seed, roles.value, seed))
    if roles.source in reads_of(a.value for a in everything):
        scope.names[roles.source] = "found"
        tile = builder.seed("found", roles.value, "found")
        line = builder.loads.pop()
        builder.flags["HAS_FOUND"] = "found is not None"
        builder.loads += [
            "if HAS_FOUND:",
            f"    {line}",
            "else:",
            f"    found = tl.zeros({scope.tiling.shape(tile.dims)}, tl.float32)",
        ]
        printer.define(roles.source, tile)
    builder.program += printer.assignments((*adjoint.forward, *adjoint.backward), {})
    dims = scope.tiling.tile(("T", roles.head, roles.value))
    shape = '(sizes["B"], sizes["T"], H, V)'
    builder.result("d_read", "[B, T, H, V]", shape, "io.dtype", zero=True)
    place = scope.place(dims, (roles.head, roles.value), "H", "row")
    tile = printer.lift(printer.numeric(printer.print(of_read)), dims)
    text = f"({tile.text}).to(d_read_ptr.dtype.element_ty)"
    builder.stores.append(f"tl.store(d_read_ptr + {place}, {text}, mask={scope.mask(dims)})")
    taken = {leaf.tensor.value for leaf in leaves}
    for leaf, gradient in found:
        builder.gradient(printer, leaf, gradient, unique(f"grad_{leaf.tensor.name}", taken))
    return builder.plan(), needed, tuple(leaf for leaf, _ in found)


def _recompute(
    roles: Roles,
    program: tuple[Assignment, ...],
    result: str,
    source: Ref,
    leaves: tuple[Leaf, ...],
) -> str:
    """Whether the gradients need what was read: never (""), always, or if tensors are given."""

    def needs(absent: frozenset[str]) -> bool:
        pruned = tuple(
            Assignment(a.name, simplify(_without(a.value, absent)), a.equation) for a in program
        )
        adjoint = _adjoint(roles, pruned, result, source, leaves)
        ends = [gradient for _, gradient in adjoint.gradients]
        values = [a.value for a in (*adjoint.forward, *adjoint.backward)]
        return roles.source in reads_of([*values, *ends])

    optional = [leaf.tensor.name for leaf in leaves if not leaf.tensor.required]
    optional = [name for name in optional if roles.recurrence.tensor(name).default is None]
    if not needs(frozenset()):
        return ""
    if needs(frozenset(optional)):
        return "True"
    deciding = [n for n in optional if not needs(frozenset([n]))] or optional
    return " or ".join(f"{name} is not None" for name in deciding)


def _without(expr: Expr, absent: frozenset[str]) -> Expr:
    if isinstance(expr, IfPresent) and expr.name in absent:
        return _without(expr.other, absent)
    children = tuple(_without(child, absent) for child in expr.children)
    return expr.with_children(children) if children else expr
