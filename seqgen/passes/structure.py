"""What a recurrence is: its components, their normal forms and families, and what reads them.

The families, fastest first: ``linear`` (matrix state, no erase), ``delta`` (one erase that shares
the write's key), ``dplr`` (other rank-1 erases), ``scan`` (no reduction over a state axis in the
update) and ``recurrent`` (everything). Every family that applies is kept: a slower schedule can
always run a faster form. Nothing here is an error, except a ``require`` that is not met.
"""

from __future__ import annotations

from dataclasses import dataclass

from seqgen.errors import Span, SpecError, sentence
from seqgen.ir.expr import Apply, Expr, Pair, Pick, Reduce, Ref, Rename, references, walk
from seqgen.ir.printer import show
from seqgen.ir.recurrence import Output, Recurrence
from seqgen.passes.affine import Affine, NotAffineError
from seqgen.passes.components import Program, find_components
from seqgen.passes.normal_form import NormalForm, Step, normal_form
from seqgen.passes.reads import Read, Reader

FAMILIES = ("linear", "delta", "dplr", "scan", "recurrent")


@dataclass(frozen=True)
class Component:
    """States that are computed together.

    Attributes:
        states: names, in declaration order.
        family: the fastest family that applies.
        applicable: all families that apply, fastest first.
        reasons: (faster family, why it does not apply).
        affine: whether the update is affine in the states (a scan can then be split over time).
        coupled: axes of the states over which the update reduces or mixes.
        form: the normal form of a single matrix state (family ``linear``, ``delta``, ``dplr``),
            and of a vector state that has one without value axes (a normaliser); else None.
        reads: how outputs and later components see the states.
        uses: states of earlier components that the update takes as values per token.
        output: name of the output because of which it has no normal form; "" if there is none.
    """

    states: tuple[str, ...]
    family: str
    applicable: tuple[str, ...]
    reasons: tuple[tuple[str, str], ...]
    affine: bool
    coupled: tuple[str, ...]
    form: NormalForm | None
    reads: tuple[Read, ...]
    uses: tuple[str, ...]
    output: str = ""

    @property
    def step(self) -> Step:
        """The only step of the normal form."""
        assert self.form is not None and len(self.form.steps) == 1
        return self.form.steps[0]

    @property
    def query(self) -> Expr:
        """Weight of the only read that contracts the key axes; over head and key axes."""
        (read,) = (read for read in self.reads if self.side(read) == "key")
        return read.weight

    @property
    def key(self) -> Expr:
        """Key of the only write; over head and key axes."""
        (write,) = self.step.writes
        return write.key

    @property
    def value(self) -> Expr:
        """Value of the only write; over head and value axes."""
        (write,) = self.step.writes
        return write.value

    @property
    def decay(self) -> str:
        """The decay class of a token; of micro-steps, that of the first."""
        return "none" if self.form is None else self.form.steps[0].decay.kind

    @property
    def log_decay(self) -> Expr | None:
        """Logarithm of the decay over head axes, and key axes if the class says so."""
        return self.step.decay.log

    @property
    def why(self) -> list[str]:
        """Why it is in no faster family, one text per reason."""
        families: dict[str, list[str]] = {}
        for family, reason in self.reasons:
            families.setdefault(reason, []).append(family)
        return [f"not {', '.join(names)}: {reason}" for reason, names in families.items()]

    def side(self, read: Read) -> str:
        """``"key"``, ``"value"`` or ``"whole"``: the axes that ``read`` contracts."""
        if self.form is None or not read.bound:
            return "whole"
        return "key" if set(read.bound) == set(self.form.key_axes) else "value"


@dataclass(frozen=True)
class Structure:
    """A recurrence taken apart.

    Attributes:
        family: that of the operator: of its matrix components the slowest, ``scan`` if it has
            none, ``recurrent`` if any component is.
        components: in dependency order.
        outputs: each output as arithmetic over reads (``Ref(read.name)``), inputs, lets and the
            values of vector states.
        reads: all reads of all components, in order of use; ``stage`` of a read says how many
            reads must come before it.
        fused: groups of states with the same key axes, decay and write keys: one schedule can
            carry them together (a normaliser is a further value column of ones).
    """

    recurrence: Recurrence
    family: str
    components: tuple[Component, ...]
    outputs: tuple[Output, ...]
    reads: tuple[Read, ...]
    fused: tuple[tuple[str, ...], ...]

    def component(self, state: str) -> Component:
        """The component that ``state`` belongs to."""
        return next(c for c in self.components if state in c.states)

    @property
    def slowest(self) -> Component | None:
        """The component that decides the family; None if there are only delay states."""
        return next((c for c in reversed(self.components) if c.family == self.family), None)

    @property
    def stages(self) -> int:
        """How many rounds of reads an output needs."""
        return max((read.stage for read in self.reads), default=0) + 1

    def __str__(self) -> str:
        from seqgen.passes.structure_text import show_structure  # it imports this module

        return show_structure(self)


def analyse(recurrence: Recurrence, require_span: Span | None = None) -> Structure:
    """The structure of ``recurrence``: what fits no other family is ``recurrent``.

    Raises:
        SpecError: at ``require_span``, if the spec requires a faster family than the one found.
    """
    program = Program(recurrence)
    reader = Reader(program)
    outputs = []
    for output in recurrence.outputs:
        value = reader.close(output.value, output.name)
        outputs.append(Output(output.name, output.axes, value, output.dtype))
    groups = find_components(program)
    for states in groups:
        _close_uses(program, reader, states)
    found = [_component(program, reader, states) for states in groups]
    family = _family(found)
    structure = Structure(
        recurrence,
        family,
        tuple(found),
        tuple(outputs),
        tuple(reader.reads),
        _fused(found),
    )
    if recurrence.require is not None:
        _check_required(structure, recurrence.require, require_span)
    return structure


def _check_required(structure: Structure, wanted: str, span: Span | None) -> None:
    if FAMILIES.index(structure.family) <= FAMILIES.index(wanted):
        return
    slow = structure.slowest
    assert slow is not None
    names = " and ".join(f"'{state}'" for state in slow.states)
    chunkwise = structure.family in ("delta", "dplr")
    other = f"write 'require: {structure.family}'" if chunkwise else "leave 'require' out"
    contracts = wanted == "linear" and slow.coupled  # whatever outputs do
    output = None if contracts else structure.recurrence.output(slow.output)
    raise SpecError(
        f"The spec requires family '{wanted}', but {names} is in '{slow.family}'.",
        span if output is None else output.span,
        label=f"this {'is' if output is None else 'makes it'} '{structure.family}'",
        notes=[sentence(reason) for reason in slow.why],
        hint=f"Change {'the update' if output is None else 'this output'}, or {other}.",
    )


def _family(components: list[Component]) -> str:
    families = {component.family for component in components}
    if "recurrent" in families:
        return "recurrent"
    matrix = [family for family in ("dplr", "delta", "linear") if family in families]
    return matrix[0] if matrix else "scan"


def _close_uses(program: Program, reader: Reader, states: tuple[str, ...]) -> None:
    """Collects the reads by which the updates of ``states`` see earlier components."""
    own = frozenset(states)

    def visit(expr: Expr, where: str) -> None:
        touched = program.states_in(expr)
        if touched <= own:
            return
        if not touched & own:
            reader.close(expr, where)
            return
        for name in references(expr):
            if name in program.definitions and name not in program.owner:
                visit(program.definitions[name], where)
        for child in expr.children:
            visit(child, where)

    for state in states:
        for version in program.versions[state][1:]:
            visit(program.definitions[version], state)


def _component(program: Program, reader: Reader, states: tuple[str, ...]) -> Component:
    coupled, cause = _contractions(program, states)
    form, problem, where = None, "", ""
    if len(states) == 1:
        try:
            form = normal_form(program, states[0], reader)
        except NotAffineError as error:
            problem, where = str(error), error.where
    else:
        problem = f"{' and '.join(states)} depend on each other"
    vector = form is not None and not form.value_axes
    reasons: list[tuple[str, str]] = []
    if form is not None and not vector:
        family = form.family
        reasons += form.not_faster
        applicable = [family, *(["dplr"] if family == "delta" else [])]
        applicable += ["scan"] if family == "linear" else []
    elif not coupled:
        family, applicable = "scan", ["scan"]
        problem = problem or f"{states[0]} has no value axis"
        slip = _missing_sum(program, states) or problem
        reasons += [("linear", problem), ("delta", slip), ("dplr", slip)]
    else:
        family, applicable = "recurrent", []
        contracts = f"the update contracts the state: {show(cause)}" if cause is not None else ""
        problem = problem or f"{states[0]} has no value axis"
        reasons += [("linear", contracts), ("delta", problem), ("dplr", problem)]
        reasons.append(("scan", contracts))
        form = None
    if family != "recurrent":
        applicable.append("recurrent")
    used = [
        program.states_in(program.definitions[v]) for s in states for v in program.versions[s][1:]
    ]
    earlier = {state for group in used for state in group} - set(states)
    return Component(
        states,
        family,
        tuple(applicable) or ("recurrent",),
        tuple((family, program.in_user_names(reason)) for family, reason in reasons),
        form is not None or _is_affine(program, states),
        coupled,
        form,
        tuple(read for read in reader.reads if read.state in states),
        tuple(state for state in program.versions if state in earlier),
        where if program.recurrence.output(where) is not None else "",
    )


def _contractions(program: Program, states: tuple[str, ...]) -> tuple[tuple[str, ...], Expr | None]:
    """State axes over which values that depend on ``states`` are reduced, and the first place."""
    own = frozenset(states)
    axes = {axis for state in states for axis in program.recurrence.state(state).axes}
    found: set[str] = set()
    cause: Expr | None = None
    todo = [program.definitions[v] for s in states for v in program.versions[s][1:]]
    seen: set[str] = set()
    while todo:
        for node in walk(todo.pop()):
            if isinstance(node, Ref):
                local = node.name in program.definitions and node.name not in program.owner
                if local and node.name not in seen:
                    seen.add(node.name)
                    todo.append(program.definitions[node.name])
                continue
            mixed = _mixed(node) & axes
            if mixed and any(program.states_in(child) & own for child in node.children):
                cause = cause if cause is not None else node
                found |= mixed
    return program.recurrence.order(tuple(found)), cause


def _missing_sum(program: Program, states: tuple[str, ...]) -> str:
    """The product with a state that a delta rule would sum; "" if there is none.

    That is where it is subtracted from a value that lacks one of its axes: ``v - k * S``.
    """
    own = frozenset(states)
    for assignment in program.recurrence.update:
        for node in walk(assignment.value):
            if not (isinstance(node, Apply) and node.op == "sub"):
                continue
            value, product = node.args
            lacking = [axis for axis in product.axes if axis not in value.axes]
            is_product = isinstance(product, Apply) and product.op == "mul"
            if is_product and len(lacking) == 1 and program.states_in(product) & own:
                text, axis = show(product), lacking[0]
                return f"{text} is not summed over {axis}, as in sum({text}, {axis})"
    return ""


def _mixed(node: Expr) -> set[str]:
    if isinstance(node, Reduce):
        return {node.axis}
    if isinstance(node, Rename):
        return {node.old, node.new}
    return {node.axis, node.half} if isinstance(node, Pick | Pair) else set()


def _is_affine(program: Program, states: tuple[str, ...]) -> bool:
    names = frozenset(name for state in states for name in program.versions[state])
    affine = Affine(names, program.wide)
    try:
        for state in states:
            for version in program.versions[state][1:]:
                definition = program.definitions[version]
                affine.terms(program.inline(definition, frozenset(states), stop=names))
    except NotAffineError:
        return False
    return True


def _fused(components: list[Component]) -> tuple[tuple[str, ...], ...]:
    groups: dict[object, list[str]] = {}
    for component in components:
        if component.form is None or len(component.form.steps) > 1 or component.step.erases:
            continue
        decay, writes = component.step.decay, component.step.writes
        keys = tuple(write.key for write in writes)
        same = (component.form.key_axes, decay.log, decay.log_value, keys)
        groups.setdefault(same, []).extend(component.states)
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)
