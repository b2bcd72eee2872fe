"""Spec -> Recurrence: names, order and axes; every mistake is reported where it was made.

After this pass there is one assignment per name, ``prev`` of inputs has become delay states and
micro-steps are unrolled; nothing later needs the spec.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, replace

from seqgen.errors import Span, SpecError, did_you_mean
from seqgen.ir.expr import (
    Expand,
    Expr,
    Index,
    Number,
    Ref,
    Rename,
    add,
    call,
    walk,
)
from seqgen.ir.recurrence import Assignment, Axis, Output, Recurrence, State, Tensor
from seqgen.passes.typing import Names, show_axes, type_expression
from seqgen.spec.model import Assign, AxisDecl, Expression, Repeat, Spec, TensorDecl


# Names that generated files use for themselves.
RESERVED = frozenset(
    "sequences length token device dtype start stop block blocks states results recorded arguments "
    "sizes borders parts inputs outputs empty tensors want_final io gradients cotangents "
    "torch triton tl".split()
)


def lower(spec: Spec) -> Recurrence:
    """The recurrence that ``spec`` describes.

    Raises:
        SpecError: unknown names, use before definition, axes that do not match, causality.
    """
    return _Lowering(spec).run()


def lower_axes(declarations: tuple[AxisDecl, ...]) -> dict[str, Axis]:
    """Axes with their default sizes; relations checked."""
    declared = {axis.name: axis for axis in declarations}
    axes: dict[str, Axis] = {}

    def resolve(name: str, at: Span, busy: tuple[str, ...]) -> Axis:
        if name in axes:
            return axes[name]
        if name not in declared:
            hint = did_you_mean(name, declared)
            raise SpecError(f"Axis '{name}' is not declared.", at, label="unknown axis", hint=hint)
        if name in busy:
            raise SpecError(
                f"The size of axis '{name}' depends on itself.",
                declared[name].span,
                label="a cycle",
            )
        decl, busy = declared[name], (*busy, name)
        if decl.groups_of is not None:
            parent = resolve(decl.groups_of, decl.span, busy)
            if parent.parent is not None:
                raise SpecError(
                    f"'{parent.name}' is itself grouped; groups of groups are not supported.",
                    decl.span,
                )
            size = decl.size if decl.size is not None else parent.size
            if size % parent.size:
                raise SpecError(
                    f"The default size of '{name}' ({size}) is no multiple of "
                    f"'{parent.name}' ({parent.size}).",
                    decl.span,
                )
            axis = Axis(name, size, parent=parent.name)
        elif decl.same_as is not None:
            twin = resolve(decl.same_as, decl.span, busy)
            axis = Axis(name, twin.size, twin=twin.name)
        elif decl.derived is not None:
            sizes = {
                node.id: resolve(node.id, decl.derived.node_span(node), busy).size
                for node in ast.walk(decl.derived.tree)
                if isinstance(node, ast.Name)
            }
            size = _evaluate_size(decl.derived, sizes)
            axis = Axis(name, size, derived=ast.unparse(decl.derived.tree))
        else:
            axis = Axis(name, decl.size if decl.size is not None else 16)
        axes[name] = axis
        return axis

    for decl in declarations:
        resolve(decl.name, decl.span, ())
    return {decl.name: axes[decl.name] for decl in declarations}


def _evaluate_size(expression: Expression, sizes: dict[str, int]) -> int:
    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant) and isinstance(node.value, int):
            return node.value
        if isinstance(node, ast.Name):
            return sizes[node.id]
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult):
            left, right = value(node.left), value(node.right)
            if isinstance(node.op, ast.Add):
                return left + right
            return left - right if isinstance(node.op, ast.Sub) else left * right
        raise SpecError(
            "A size is made of axes and whole numbers with + - *.", expression.node_span(node)
        )

    size = value(expression.tree)
    if size < 1:
        raise SpecError(f"The size is {size}, must be positive.", expression.span)
    return size


@dataclass
class _Lowering:
    spec: Spec
    names: Names = field(init=False)
    let: list[Assignment] = field(default_factory=list)
    update: list[Assignment] = field(default_factory=list)
    delays: dict[str, State] = field(default_factory=dict)
    delay_of: dict[str, str] = field(default_factory=dict)  # delay state -> name it delays
    locals: set[str] = field(default_factory=set)
    section: str = "let"
    micro: tuple[str, int] | None = None  # repeat axis and the index being unrolled

    # The whole ------------------------------------------------------------------------------

    def run(self) -> Recurrence:
        spec = self.spec
        self.axes = lower_axes(spec.axes)
        self.tensor_decls = {t.name: t for t in (*spec.inputs, *spec.parameters)}
        self.state_decls = {s.name: s for s in spec.states}
        self.let_spans = {a.target: a.span for a in spec.let}
        self.names = Names(
            self.axes,
            unknown=self.unknown,
            prev=self.prev,
            position=self.position,
            hoist=self.hoist,
        )
        self.check_names()
        tensors = [self.tensor(decl) for decl in (*spec.inputs, *spec.parameters)]
        states = tuple(State(s.name, s.axes, s.init) for s in spec.states)
        for tensor in tensors:
            self.names.values[tensor.name] = Ref(tensor.value, tensor.axes)
        for decl in spec.states:
            self.check_axes(decl.axes, decl.span)
        self.lower_let()
        self.lower_update()
        outputs = tuple(self.lower_outputs())
        fixed = {item.axis for item in spec.update if isinstance(item, Repeat)}
        delays = tuple(self.delays.values())
        final = [(s.name, s.name) for s in states]
        for delay in delays:
            final.append((delay.name, self.delayed_value(delay.name)))
        return Recurrence(
            name=spec.operator,
            about=spec.about,
            axes=tuple(replace(a, fixed=a.name in fixed) for a in self.axes.values()),
            inputs=tuple(t for t in tensors if t.kind == "input"),
            parameters=tuple(t for t in tensors if t.kind == "parameter"),
            states=states + delays,
            let=tuple(self.let),
            update=tuple(self.update),
            final=tuple(final),
            outputs=outputs,
            equations=self.equations(),
            reverse=spec.order == "reverse",
            chunk=spec.chunk,
            require=spec.require,
            origin=spec.origin,
        )

    def equations(self) -> tuple[str, ...]:
        lines = [f"{a.target} = {a.value.text}" for a in self.spec.let]
        for item in self.spec.update:
            if isinstance(item, Repeat):
                lines.append(f"repeat {item.axis}:")
                lines += [f"    {a.target} = {a.value.text}" for a in item.body]
            else:
                lines.append(f"{item.target} = {item.value.text}")
        lines += [f"{o.name} = {o.value.text}" for o in self.spec.outputs]
        return tuple(lines)

    def check_names(self) -> None:
        seen: dict[str, str] = {axis.name: "an axis" for axis in self.spec.axes}
        groups = [("an input", self.spec.inputs), ("a parameter", self.spec.parameters)]
        everything = [(what, d.name, d.span) for what, group in groups for d in group]
        everything += [("a state", s.name, s.span) for s in self.spec.states]
        for what, name, span in everything:
            if name in seen:
                raise SpecError(
                    f"'{name}' is {seen[name]} and {what}.",
                    span,
                    label="name already taken",
                    notes=["Axes and tensors share one set of names."],
                    hint="Give one of them another name.",
                )
            seen[name] = what
        targets = [*self.spec.let, *(a for i in self.spec.update for a in self.flat(i))]
        for assign in targets:
            if assign.target in self.axes:
                raise SpecError(
                    f"'{assign.target}' is an axis; it cannot be assigned.", assign.span
                )
        taken = {*seen, *(a.target for a in targets), *(o.name for o in self.spec.outputs)}
        made = {f"{s.name}_prev" for s in self.spec.states} | {"position"}
        made |= {f"{a.target}_in" for a in self.spec.let if a.target in self.tensor_decls}
        for what, name, span in [*everything, *(("a let", a.target, a.span) for a in targets)]:
            if name in made | RESERVED or re.fullmatch(r"prev\d*_\w+|arg\d+|\w+_m\d+", name):
                raise SpecError(
                    f"The name '{name}' is reserved for a value that seqgen makes itself.",
                    span,
                    label=what,
                    hint="Choose another name.",
                )
        for s in self.spec.states:
            count = sum(a.target == s.name for i in self.spec.update for a in self.flat(i))
            if any(f"{s.name}_{i}" in taken for i in range(1, count)):
                raise SpecError(f"'{s.name}_1' and so on are versions of state '{s.name}'.", s.span)

    @staticmethod
    def flat(item: Assign | Repeat) -> tuple[Assign, ...]:
        return item.body if isinstance(item, Repeat) else (item,)

    def check_axes(self, axes: tuple[str, ...], span: Span) -> None:
        for axis in axes:
            if axes.count(axis) > 1:
                raise SpecError(f"Axis '{axis}' is named twice.", span)
            parent = self.axes[axis].parent
            if parent in axes:
                raise SpecError(
                    f"A tensor cannot have '{axis}' and its parent '{parent}'.",
                    span,
                    hint=f"'{axis}' already counts the groups of '{parent}'.",
                )

    def tensor(self, decl: TensorDecl) -> Tensor:
        self.check_axes(decl.axes, decl.span)
        if decl.optional and decl.default is None:
            self.names.optional.add(decl.name)
        value = f"{decl.name}_in" if decl.name in self.let_spans else decl.name
        return Tensor(
            decl.name,
            decl.axes,
            decl.kind,
            value,
            decl.dtype,
            decl.range,
            decl.optional or decl.default is not None,
            decl.default,
        )

    # Names ----------------------------------------------------------------------------------

    def unknown(self, name: str, span: Span) -> SpecError:
        """Why ``name`` has no value here."""
        if name in self.state_decls and self.section == "let":
            return SpecError(
                f"'let' cannot read the state '{name}'.",
                span,
                label="a state",
                hint="Move this line to 'update': a name assigned there may depend on states.",
            )
        if name in self.let_spans:
            line = self.let_spans[name].line
            return SpecError(
                f"'{name}' is used before it is defined.",
                span,
                label=f"defined in line {line}",
                hint="'let' is evaluated from top to bottom; move the definition up.",
            )
        later = [a for i in self.spec.update for a in self.flat(i) if a.target == name]
        if later:
            return SpecError(
                f"'{name}' is used before it is assigned.",
                span,
                label=f"assigned in line {later[0].span.line}",
                hint="Statements are evaluated from top to bottom.",
            )
        known = [*self.names.values, *self.state_decls, *self.axes]
        outputs = [o.name for o in self.spec.outputs]
        if name in outputs:
            return SpecError(
                f"'{name}' is an output; outputs cannot be read.",
                span,
                label="an output",
                hint="Assign it in 'update' first and use that name in 'output'.",
            )
        return SpecError(
            f"'{name}' is not defined.",
            span,
            label="unknown name",
            hint=did_you_mean(name, known) or f"Defined here: {', '.join(known)}.",
        )

    def hoist(self, value: Expr) -> Expr:
        block = self.let if self.section == "let" else self.update
        for assignment in block:
            if assignment.value == value:
                return Ref(assignment.name, value.axes)
        count = sum(a.name.startswith("arg") for a in (*self.let, *self.update))
        block.append(Assignment(f"arg{count + 1}", value))
        return Ref(f"arg{count + 1}", value.axes)

    def position(self) -> Expr:
        self.delays.setdefault("position", State("position", (), delay=True))
        return Ref("position", ())

    def prev(self, path: str, span: Span) -> Expr:
        """``prev(name)``; ``path`` starts with one 'prev ' for each further step back."""
        name, steps = path.rsplit(" ", 1)[-1], path.count(" ") + 1
        if name in self.state_decls:
            if self.section == "let":
                raise SpecError(
                    f"'let' cannot read the state '{name}'.", span, hint="Move it to 'update'."
                )
            if steps > 1:
                raise SpecError(
                    f"'prev(prev({name}))' of a state is not available.",
                    span,
                    hint="Keep the older value in a state of its own.",
                )
            return Ref(f"{name}_prev", self.state_decls[name].axes)
        if name in self.locals:
            raise SpecError(
                f"'{name}' is a local of 'update'; 'prev' reads states, inputs and lets.",
                span,
                label="a local",
                hint="Declare it as a state to keep it from token to token.",
            )
        decl = self.tensor_decls.get(name)
        if decl is not None and decl.kind == "parameter" and name not in self.let_spans:
            raise SpecError(f"The parameter '{name}' has no previous value.", span)
        if name not in self.names.values and name not in self.let_spans:
            raise self.unknown(name, span)
        if decl is not None and decl.optional:
            raise SpecError(f"'prev' of the optional tensor '{name}' is not available.", span)
        axes = self.axes_of(name, span)
        for step in range(1, steps + 1):
            state = f"prev{step if step > 1 else ''}_{name}"
            self.delays.setdefault(state, State(state, axes, delay=True))
            self.delay_of[state] = name
        return Ref(state, axes)

    def axes_of(self, name: str, span: Span) -> tuple[str, ...]:
        """Axes of an input or let, in the order of the recurrence's axes."""
        value = self.names.values.get(name)
        if value is None or (name in self.let_spans and name in self.tensor_decls):
            decl = self.tensor_decls.get(name)
            if decl is None:
                raise self.unknown(name, span)
            return decl.axes
        rank = list(self.axes)
        return tuple(sorted(value.axes, key=rank.index))

    def delayed_value(self, state: str) -> str:
        """Name of the value that a delay state takes after the token."""
        if state == "position":
            self.let.append(Assignment("position_next", add(Ref("position", ()), Number(1.0))))
            return "position_next"
        match = re.fullmatch(r"prev(\d*)_(.*)", state)
        assert match is not None
        step, name = int(match[1] or 1), match[2]
        if step > 1:
            return f"prev{step - 1 if step > 2 else ''}_{name}"
        value = self.names.values[name]
        assert isinstance(value, Ref)
        return value.name

    # Sections -------------------------------------------------------------------------------

    def lower_let(self) -> None:
        values = self.names.values
        spans = list(self.let_spans)
        for i, assign in enumerate(self.spec.let):
            name = assign.target
            if name in self.state_decls:
                raise SpecError(
                    f"'{name}' is a state; 'let' cannot assign it.",
                    assign.span,
                    hint="Move this line to 'update'.",
                )
            reads = {n.id for n in ast.walk(assign.value.tree) if isinstance(n, ast.Name)}
            if name in self.tensor_decls and name not in reads:
                raise SpecError(
                    f"'{name}' is an input and this line replaces it without reading it.",
                    assign.span,
                    label="would hide the input",
                    hint="Choose another name.",
                )
            for node in ast.walk(assign.value.tree):
                if not isinstance(node, ast.Name) or node.id not in self.tensor_decls:
                    continue
                if node.id in spans and spans.index(node.id) > i and not self.in_prev(assign, node):
                    raise SpecError(
                        f"This reads the raw '{node.id}', which line "
                        f"{self.let_spans[node.id].line} re-binds.",
                        assign.value.node_span(node),
                        label="re-bound later",
                        hint=f"Move the definition of '{node.id}' above this line.",
                    )
            value = type_expression(assign.value, self.names)
            decl = self.tensor_decls.get(name)
            if decl is not None and set(value.axes) != set(decl.axes):
                raise SpecError(
                    f"'{name}' has {show_axes(decl.axes)}, this value has {show_axes(value.axes)}.",
                    assign.span,
                    hint="A let that re-binds an input keeps its axes.",
                )
            self.let.append(Assignment(name, value, f"{name} = {assign.value.text}"))
            values[name] = Ref(name, value.axes)
            self.names.optional.discard(name)

    @staticmethod
    def in_prev(assign: Assign, node: ast.Name) -> bool:
        """Whether ``node`` is the argument of ``prev``, which always means the final value."""
        return any(
            isinstance(call, ast.Call)
            and isinstance(call.func, ast.Name)
            and call.func.id == "prev"
            and node in call.args
            for call in ast.walk(assign.value.tree)
        )

    def lower_update(self) -> None:
        self.section = "update"
        for decl in self.spec.states:
            self.names.values[decl.name] = Ref(f"{decl.name}_prev", decl.axes)
        steps: list[tuple[Assign, tuple[str, int] | None]] = []
        for item in self.spec.update:
            if isinstance(item, Repeat):
                if item.axis not in self.axes:
                    hint = did_you_mean(item.axis, self.axes)
                    raise SpecError(f"'{item.axis}' is not an axis.", item.span, hint=hint)
                size = self.axes[item.axis].size
                steps += [(a, (item.axis, i)) for i in range(size) for a in item.body]
            else:
                steps.append((item, None))
        remaining = {
            name: sum(a.target == name for a, _ in steps) for name in {a.target for a, _ in steps}
        }
        versions: dict[str, int] = dict.fromkeys(remaining, 0)
        for decl in self.spec.states:
            if decl.name not in remaining:
                raise SpecError(
                    f"The state '{decl.name}' is never updated.",
                    decl.span,
                    label="no assignment in 'update'",
                    hint=f"Add '{decl.name} = ...' to 'update'.",
                )
        for assign, micro in steps:
            self.micro = micro
            self.lower_statement(assign, remaining, versions)
        self.micro = None

    def lower_statement(
        self, assign: Assign, remaining: dict[str, int], versions: dict[str, int]
    ) -> None:
        name = assign.target
        if name in self.tensor_decls or name in self.let_spans:
            raise SpecError(
                f"'{name}' is already an input or a let; 'update' cannot assign it.",
                assign.span,
                hint="Give the local a name of its own.",
            )
        outer = dict(self.names.values)
        if self.micro is not None:
            axis, index = self.micro
            for known, value in outer.items():
                if axis in value.axes:
                    self.names.values[known] = self.slice(value, axis, index)
        value = type_expression(assign.value, self.names)
        self.names.values = outer
        if name in self.state_decls:
            axes = self.state_decls[name].axes
            extra = [axis for axis in value.axes if axis not in axes]
            parents = {self.axes[axis].parent: axis for axis in axes}
            for axis in extra:
                if axis in parents:
                    value = Expand(value, axis, parents[axis])
                    continue
                raise SpecError(
                    f"'{name}' has {show_axes(axes)}, this value has {show_axes(value.axes)}.",
                    assign.value.span,
                    label=f"axis '{axis}' is not an axis of '{name}'",
                    hint=f"Reduce over it (sum(..., {axis})), or add it to the state.",
                )
            for axis in axes:
                if axis not in value.axes:  # every element, written so that it has the axis
                    everywhere = call("ge", Index(axis), Number(0.0))
                    value = call("where", everywhere, value, Number(0.0))
            result = Ref("", axes)
        else:
            self.locals.add(name)
            result = Ref("", value.axes)
        remaining[name] -= 1
        versions[name] += 1
        unique = f"{name}_{versions[name]}" if remaining[name] else name
        self.update.append(Assignment(unique, value, f"{name} = {assign.value.text}"))
        self.names.values[name] = Ref(unique, result.axes)

    def slice(self, value: Expr, axis: str, index: int) -> Expr:
        """``value`` at one index of a repeat axis; lets are copied for the index."""
        if axis not in value.axes:
            return value
        if isinstance(value, Ref):
            axes = tuple(a for a in value.axes if a != axis)
            source = next((a for a in self.let if a.name == value.name), None)
            if source is None:
                return Ref(value.name, axes, (*value.at, (axis, index)))
            name = f"{value.name}_m{index}"
            if not any(a.name == name for a in self.let):
                sliced = self.slice(source.value, axis, index)
                self.let.append(Assignment(name, sliced, source.equation))
            return Ref(name, axes)
        if isinstance(value, Index):
            return Number(float(index))
        if isinstance(value, Rename | Expand) and axis in (
            getattr(value, "new", None),
            getattr(value, "child", None),
        ):
            raise SpecError(f"The repeat axis '{axis}' cannot come from another axis.")
        return value.with_children(tuple(self.slice(c, axis, index) for c in value.children))

    def lower_outputs(self) -> list[Output]:
        self.section = "output"
        outputs = []
        for decl in self.spec.outputs:
            value = type_expression(decl.value, self.names)
            axes = decl.axes
            if axes is not None:
                self.check_axes(axes, decl.span)
                if set(value.axes) != set(axes):
                    raise SpecError(
                        f"'{decl.name}' is declared with {show_axes(axes)}, "
                        f"its value has {show_axes(value.axes)}.",
                        decl.value.span,
                    )
            else:
                axes = self.output_axes(value)
            outputs.append(Output(decl.name, axes, value, decl.dtype))
        self.check_reads(outputs)
        return outputs

    def output_axes(self, value: Expr) -> tuple[str, ...]:
        """Order of a result's axes: as in the first state or input that has them all."""
        for axes in [d.axes for d in self.spec.states] + [d.axes for d in self.spec.inputs]:
            if set(value.axes) <= set(axes):
                return tuple(axis for axis in axes if axis in value.axes)
        rank = list(self.axes)
        return tuple(sorted(value.axes, key=rank.index))

    def check_reads(self, outputs: list[Output]) -> None:
        """Every state must matter: read by an output, or by an update of another state."""
        read = {
            node.name
            for value in [*(o.value for o in outputs), *(a.value for a in self.update)]
            for node in walk(value)
            if isinstance(node, Ref)
        }
        for decl in self.spec.states:
            if not read & {decl.name, f"{decl.name}_prev"}:
                raise SpecError(
                    f"The state '{decl.name}' is never read.",
                    decl.span,
                    hint="Use it in 'output', or remove it.",
                )


__all__ = ["lower", "lower_axes"]
