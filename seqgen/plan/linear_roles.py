"""A linear or delta recurrence taken into roles: tiles of matrix products, and row factors.

Each role (query, key, value) is a product of numbers, of factors that are one number per token
and head, and of a tile. The numbers of the query become a scale of the read, row factors become
weights of the read and of the write, so that the large kernels see tiles as they are in memory.
With one decay per key channel the log-decay is a tile as well, the gate, and row factors are part
of the tiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from seqgen.ir.expr import (
    Apply,
    Expand,
    Expr,
    GroupSum,
    Index,
    Number,
    Pair,
    Pick,
    Reduce,
    Ref,
    Rename,
    Size,
    walk,
)
from seqgen.ir.printer import show
from seqgen.ir.recurrence import Assignment, Output, Recurrence, State, Tensor
from seqgen.passes.affine import factors_of, product
from seqgen.passes.simplify import simplify
from seqgen.passes.structure import Component, Structure

HOST = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "div": "/",
    "pow": "**",
    "neg": "(-{})",
    "sqrt": "({} ** 0.5)",
    "rsqrt": "({} ** -0.5)",
}
"""Operations on sizes that a launcher evaluates, in Python."""


class NoFastFormError(Exception):
    """No chunkwise schedule covers it; ``str`` says why, ``output`` names the output at fault."""

    def __init__(self, reason: str, output: str = "") -> None:
        super().__init__(reason)
        self.output = output


@dataclass(frozen=True)
class Leaf:
    """A tensor as one head sees it: ``axes`` begin with the head axis, whatever it has in memory.

    So gradients come per head, and are added up where heads share an entry. ``lead`` says how
    many heads it has in memory: ``"H"``, ``"HP"`` (the parent's) or ``"1"``.
    """

    tensor: Tensor
    lead: str
    axes: tuple[str, ...]

    @property
    def timed(self) -> bool:
        return self.tensor.kind == "input"


@dataclass(frozen=True)
class Role:
    """The tile of a role: over the head axis and ``axis``; ``leaf`` if it is a tensor as it is.

    A computed tile is kept in float32 if ``wide``, else in the io dtype.
    """

    name: str
    axis: str
    tile: Expr
    leaf: Leaf | None
    wide: bool = False


@dataclass(frozen=True)
class Roles:
    """A linear or delta recurrence for the chunkwise schedule.

    Attributes:
        head: the head axis of the state, or a name that no axis has.
        parent: the axis of which ``head`` is a child, or "".
        scale: numbers and sizes that multiply what is read.
        tiles: query, key, value, and the gate where the decay is per key channel.
        decay: log-decay over the head axis, or None.
        write: row factor of what is written, or None.
        read: row factor of what is read, or None.
        erase: of the delta family, row factor of what the erase reads with the key, or None.
        strict: whether the state is read as the token found it.
        diagonal: whether a token reads its own write; if ``strict``, by the output's equation.
        bonus: tensor over the key axis that weighs a token's own write, or None.
        lets: all ``let`` assignments, over the head axis.
        output: the only output; its value is over reads and tensors.
        source: name of the read in it.
        normaliser: a second state without the value axis, or None; what is read of it is the
            leaf ``normaliser_read``.
    """

    recurrence: Recurrence
    state: State
    head: str
    parent: str
    key: str
    value: str
    tiles: tuple[Role, ...]
    scale: Expr
    decay: Expr | None
    write: Expr | None
    read: Expr | None
    lets: tuple[Assignment, ...]
    output: Output
    source: str
    leaves: tuple[Leaf, ...]
    normaliser: State | None
    normaliser_read: Leaf | None
    erase: Expr | None = None
    strict: bool = False
    diagonal: bool = True
    bonus: Leaf | None = None

    def leaf(self, value: str) -> Leaf | None:
        """The leaf whose value has this name."""
        return next((leaf for leaf in self.leaves if leaf.tensor.value == value), None)


def find_roles(recurrence: Recurrence, structure: Structure) -> Roles:
    """The roles of ``recurrence``.

    Raises:
        NoFastFormError: the chunkwise schedule does not cover it.
    """
    component = matrix_component(recurrence, structure)
    decays = ("none", "head constant", "scalar")
    require(
        component.decay in decays,
        f"the decay is per {component.decay} and not one number per token and head",
    )
    check_read_after(component)
    return Finder(recurrence, component, structure).roles()


def require(condition: bool, reason: str, output: str = "") -> None:
    """Ends the search with ``reason``, which may be an output, unless ``condition`` holds."""
    if not condition:
        raise NoFastFormError(reason, output)


def matrix_component(
    recurrence: Recurrence, structure: Structure, contracted: str = "key"
) -> Component:
    """The component of the only matrix state, if reads and output have the form of a role's.

    ``contracted`` says which axis the read has to contract, "key" or "value".
    """
    names = tuple(state.name for state in recurrence.states)
    require(len(names) == 1 or names in structure.fused, "there are several states")
    matrices = [c for c in structure.components if c.family == structure.family]
    require(len(matrices) == 1 and len(names) < 3, "there are several matrix states")
    (component,) = matrices
    form = component.form
    assert form is not None
    require(len(form.steps) == 1, "a token takes several steps")
    require(len(component.step.writes) == 1, "a token writes several products")
    require(len(form.head_axes) <= 1, "the state has several head axes")
    require(len(form.key_axes) == 1, "several axes are contracted together")
    require(len(form.value_axes) == 1, "the state has several value axes")
    read, *others = component.reads
    require(not others, "the state is read more than once", component.reads[-1].where)
    (axis,) = form.key_axes if contracted == "key" else form.value_axes
    other = f"'{read.where}' sums over {', '.join(read.bound)} and not over {axis}"
    require(component.side(read) == contracted, other, read.where)
    require(not read.expand, "several queries share a state", read.where)
    require(len(recurrence.outputs) == 1, "there are several outputs", recurrence.outputs[-1].name)
    state = recurrence.state(component.states[0])
    require(all(s.init == 0.0 for s in recurrence.states), "a state does not start at zero")
    require(state.axes[: len(form.head_axes)] == form.head_axes, "the head axis is not outermost")
    wanted = (*form.head_axes, *(form.value_axes if contracted == "key" else form.key_axes))
    (out,) = recurrence.outputs
    found = f"the output is over {', '.join(out.axes)} and not over {', '.join(wanted)}"
    require(out.axes == wanted, found, out.name)
    return component


def check_read_after(component: Component) -> None:
    """The only read sees the state as the token left it."""
    read = component.reads[0]
    require(not read.before, "the state is read before the token's update", read.where)


class Finder:
    """Takes the expressions of one matrix component into roles."""

    def __init__(self, recurrence: Recurrence, component: Component, structure: Structure) -> None:
        form = component.form
        assert form is not None
        self.rec, self.component, self.structure = recurrence, component, structure
        self.heads = form.head_axes
        self.head = self.heads[0] if self.heads else "head"
        self.parent = (recurrence.axis(self.head).parent or "") if self.heads else ""
        (self.key,), (self.value,) = form.key_axes, form.value_axes
        on_key = component.side(component.reads[0]) == "key"
        self.queried = self.key if on_key else self.value
        self.definitions = {a.name: a.value for a in recurrence.let}
        self.tensors = {t.value: t for t in recurrence.tensors}

    def roles(self) -> Roles:
        """The roles, with row factors of their own."""
        component = self.component
        (read,) = component.reads
        output = self.structure.outputs[0]
        query, of_query = self.split(read.weight, "query", self.queried)
        key, of_key = self.split(component.key, "key", self.key)
        value, of_value = self.split(component.value, "value", self.value)
        erase: list[Expr] = []
        delta = component.step.delta
        if delta is not None:
            key, of_key = self.split(delta.x, "key", self.key)
            erased, of_erase = self.split(delta.r, "key", self.key)
            require(erased.tile == key.tile, "the erase and the write have different keys")
            erase = [f for f in of_erase if f != Number(1.0)]
            value, of_value = self.whole(delta.y, "value", self.value), ()
        scale = [f for f in of_query if _is_number(f)]
        weights = [f for f in of_query if not _is_number(f)]
        writes = [f for f in (*of_value, *of_key) if f != Number(1.0)]
        normaliser, found = self.normaliser(component, writes)
        log = component.log_decay
        result = self.spelled(self.inlined(output.value))
        lets = tuple(
            Assignment(a.name, self.spelled(a.value), a.equation)
            for a in self.rec.let
            if self.parent not in a.value.axes
        )
        return Roles(
            recurrence=self.rec,
            state=self.rec.state(component.states[0]),
            head=self.head,
            parent=self.parent,
            key=self.key,
            value=self.value,
            tiles=(query, key, value),
            scale=simplify(product(scale)),
            decay=None if log is None else self.spelled(log),
            write=simplify(product(writes)) if writes else None,
            read=simplify(product(weights)) if weights else None,
            lets=lets,
            output=Output(output.name, output.axes, result, output.dtype),
            source=read.name,
            leaves=(*(self.leaf(t) for t in self.rec.tensors), *([found] if found else [])),
            normaliser=normaliser,
            normaliser_read=found,
            erase=simplify(product(erase)) if erase else None,
        )

    def normaliser(
        self, component: Component, writes: list[Expr]
    ) -> tuple[State | None, Leaf | None]:
        """The second state, if there is one, and its read as a tensor of one number per head.

        It takes the keys that the first state takes, with the same weights ``writes``.
        """
        if len(self.rec.states) == 1:
            return None, None
        other = next(c for c in self.structure.components if c is not component)
        state = self.rec.state(other.states[0])
        require(state.axes == (*self.heads, self.key), f"{state.name} has other axes")
        require(len(other.reads) == 1, f"{state.name} is read more than once")
        (read,), (own,) = other.reads, component.reads
        same = not read.before and not read.expand and read.weight == own.weight
        require(same, f"{state.name} is read with another query")
        weights: list[Expr] = []
        self.sort(self.spelled(other.value), "", weights, [])
        same = sorted(show(f) for f in weights if f != Number(1.0)) == sorted(map(show, writes))
        require(same, f"{state.name} takes something else than the keys of the other state")
        tensor = Tensor(read.name, self.heads, "input", read.name, dtype="float32")
        return state, Leaf(tensor, "H" if self.heads else "1", (self.head,))

    def leaf(self, tensor: Tensor) -> Leaf:
        axes = tensor.axes
        lead = "1"
        if axes and axes[0] in (self.head, self.parent):
            lead = "H" if axes[0] == self.head else "HP"
            axes = axes[1:]
        return Leaf(tensor, lead, (self.head, *axes))

    # Expressions over the head axis -----------------------------------------------------------

    def inlined(self, expr: Expr) -> Expr:
        """``expr`` without references to ``let`` values."""
        if isinstance(expr, Ref) and expr.name in self.definitions:
            return self.inlined(self.definitions[expr.name])
        children = tuple(self.inlined(child) for child in expr.children)
        return expr.with_children(children) if children else expr

    def spelled(self, expr: Expr) -> Expr:
        """``expr`` for one head: values have the head axis in place of its parent's or of none."""
        if isinstance(expr, Ref):
            return expr if self.head in expr.axes else self.over_head(expr)
        if isinstance(expr, Expand) and expr.child == self.head:
            return self.over_head(self.inlined(expr.arg))
        children = tuple(self.spelled(child) for child in expr.children)
        return expr.with_children(children) if children else expr

    def over_head(self, expr: Expr) -> Expr:
        if isinstance(expr, Ref):
            axes = tuple(a for a in expr.ref_axes if a not in (self.head, self.parent))
            return Ref(expr.name, (self.head, *axes), expr.at)
        require(
            not (isinstance(expr, Index | Reduce | Expand) and self.parent in _own_axes(expr)),
            f"a value over {self.parent} is more than its entries",
        )
        children = tuple(self.over_head(child) for child in expr.children)
        return expr.with_children(children) if children else expr

    # Factors ----------------------------------------------------------------------------------

    def split(self, expr: Expr, name: str, axis: str) -> tuple[Role, tuple[Expr, ...]]:
        """The tile of a role, and its other factors."""
        rows: list[Expr] = []
        tiles: list[Expr] = []
        self.sort(self.spelled(expr), axis, rows, tiles)
        return self.tile(name, axis, simplify(product(tiles))), tuple(rows)

    def tile(self, name: str, axis: str, tile: Expr, dtype: str | None = None) -> Role:
        """A role; its tile is a tensor as it is if that has ``dtype`` (None: the io dtype)."""
        leaf = None
        if isinstance(tile, Ref) and tile.name in self.tensors:
            found = self.leaf(self.tensors[tile.name])
            plain = found.timed and found.tensor.required and found.tensor.dtype in (None, dtype)
            if plain and found.axes == (self.head, axis):
                leaf = found
        return Role(name, axis, tile, leaf, dtype == "float32")

    def whole(self, expr: Expr, name: str, axis: str) -> Role:
        """A role with all factors in its tile."""
        role, rows = self.split(expr, name, axis)
        return Role(name, axis, simplify(product((role.tile, *rows))), None) if rows else role

    def sort(self, expr: Expr, axis: str, rows: list[Expr], tiles: list[Expr]) -> None:
        number, factors = factors_of(expr)
        if number != 1.0:
            rows.append(Number(number))
        for factor in factors:
            if axis not in factor.axes:
                rows.append(factor)
            elif isinstance(factor, Ref) and factor.name in self.definitions:
                self.sort(self.spelled(self.definitions[factor.name]), axis, rows, tiles)
            else:
                tiles.append(factor)


def check_tiles(exprs: Iterable[Expr], roles: Roles, allowed: tuple[str, ...]) -> None:
    """Holds expressions to what a tile of 64 tokens can compute.

    Raises:
        NoFastFormError: an axis that is not among ``allowed`` and the head axis, two of them
            together, or an operation that moves numbers along an axis.
    """
    for expr in exprs:
        for node in walk(expr):
            moved = isinstance(node, GroupSum | Rename | Pick | Pair | Expand)
            require(not moved, f"'{show(node)}' moves values along an axis")
            require(not (isinstance(node, Ref) and node.at), "a token takes several steps")
            axes = set(node.axes) - {roles.head}
            if isinstance(node, Size):
                axes |= {node.axis} - {roles.head, roles.parent, roles.key, roles.value}
            extra = sorted(axes - set(allowed))
            fitting = " or ".join(allowed) or "none"
            wrong = f"'{show(node)}' has the axis {', '.join(extra)}, where only {fitting} fits"
            require(not extra, wrong)
            both = " and ".join(sorted(axes))
            require(len(axes) < 2, f"'{show(node)}' is over {both} together")


def _own_axes(expr: Expr) -> tuple[str, ...]:
    if isinstance(expr, Reduce | Index):
        return (expr.axis,)
    assert isinstance(expr, Expand)
    return (expr.parent, expr.child)


def _is_number(expr: Expr) -> bool:
    """Whether a launcher can compute ``expr`` from sizes."""
    return all(
        isinstance(node, Number | Size) or (isinstance(node, Apply) and node.op in HOST)
        for node in walk(expr)
    )
