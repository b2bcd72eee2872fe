"""Spec -> Recurrence: names, order and axes; every mistake is reported where it was made.

After this pass there is one assignment per name, ``prev`` of inputs has become delay states and
micro-steps are unrolled; nothing later needs the spec for the mathematics.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field, replace

from seqgen.errors import Span, SpecError
from seqgen.ir.expr import (
    Expand,
    Expr,
    Index,
    Number,
    Ref,
    add,
    call,
    references,
)
from seqgen.ir.recurrence import Assignment, Output, Recurrence, State, Tensor
from seqgen.passes.alignment import Names, show_axes
from seqgen.passes.declarations import (
    check_axes,
    check_names,
    check_used,
    explain_unknown,
    lower_axes,
)
from seqgen.passes.micro_steps import at_micro_step, check_outside, count_steps
from seqgen.passes.steps_as_tokens import with_micro_steps
from seqgen.passes.typing import type_expression
from seqgen.spec.checks import MAX_STATEMENTS, too_many_statements
from seqgen.spec.model import Assign, Repeat, Spec, TensorDecl


def lower(spec: Spec) -> Recurrence:
    """The recurrence that ``spec`` describes.

    Raises:
        SpecError: unknown names, use before definition, axes that do not match, causality.
    """
    recurrence = _Lowering(spec).run()
    return with_micro_steps(recurrence, spec, lambda steps: _Lowering(steps).run())


@dataclass
class _Lowering:
    spec: Spec
    names: Names = field(init=False)
    let: list[Assignment] = field(default_factory=list)
    update: list[Assignment] = field(default_factory=list)
    delays: dict[str, State] = field(default_factory=dict)
    locals: set[str] = field(default_factory=set)
    timeless: set[str] = field(default_factory=set)  # values that are the same at all tokens
    section: str = "let"
    micro: tuple[str, int] | None = None  # repeat axis and the index being unrolled

    # The whole ------------------------------------------------------------------------------

    def run(self) -> Recurrence:
        spec = self.spec
        self.axes = lower_axes(spec.axes)
        self.tensor_decls = {t.name: t for t in (*spec.inputs, *spec.parameters)}
        self.state_decls = {s.name: s for s in spec.states}
        self.let_spans = {a.target: a.span for a in spec.let}
        self.repeated = {item.axis for item in spec.update if isinstance(item, Repeat)}
        self.names = Names(
            self.axes,
            unknown=self.unknown,
            prev=self.prev,
            position=self.position,
            hoist=self.hoist,
        )
        check_names(spec, self.axes)
        tensors = [self.tensor(decl) for decl in (*spec.inputs, *spec.parameters)]
        states = tuple(State(s.name, s.axes, s.init) for s in spec.states)
        for tensor in tensors:
            self.names.values[tensor.name] = Ref(tensor.value, tensor.axes)
        self.timeless = {tensor.value for tensor in tensors if tensor.kind == "parameter"}
        for decl in spec.states:
            check_axes(decl.axes, self.axes, decl.span)
        self.lower_let()
        self.lower_update()
        outputs = tuple(self.lower_outputs())
        check_used(spec)
        delays = tuple(self.delays.values())
        final = [(s.name, s.name) for s in states]
        final += [(delay.name, self.delayed_value(delay.name)) for delay in delays]
        return Recurrence(
            name=spec.operator,
            about=spec.about,
            axes=tuple(replace(a, fixed=a.name in self.repeated) for a in self.axes.values()),
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

    def tensor(self, decl: TensorDecl) -> Tensor:
        check_axes(decl.axes, self.axes, decl.span)
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
        known = [*self.names.values, *self.state_decls, *self.axes]
        return explain_unknown(self.spec, name, span, self.section, known)

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
            raise SpecError(
                f"The parameter '{name}' has no previous value.",
                span,
                label="the same at all tokens",
            )
        if name not in self.names.values and name not in self.let_spans:
            raise self.unknown(name, span)
        value = self.names.values.get(name)
        if value is not None and set(references(value)) <= self.timeless:
            raise SpecError(
                f"'{name}' has no previous value.",
                span,
                label="the same at all tokens",
                hint="It is made of parameters and numbers only.",
            )
        if decl is not None and decl.optional:
            raise SpecError(f"'prev' of the optional tensor '{name}' is not available.", span)
        axes = self.axes_of(name, span)
        if self.repeated.intersection(axes):
            raise SpecError(
                f"'prev({name})' is not available with micro-steps.",
                span,
                hint="Take it in 'let', of a value without the repeat axis.",
            )
        for step in range(1, steps + 1):
            state = f"prev{step if step > 1 else ''}_{name}"
            self.delays.setdefault(state, State(state, axes, delay=True))
        return Ref(state, axes)

    def axes_of(self, name: str, span: Span) -> tuple[str, ...]:
        """Axes of an input, in its own order, or of a let, in the order of the spec's axes."""
        if name in self.tensor_decls:
            return self.tensor_decls[name].axes
        value = next((made.value for made in self.let if made.name == name), None)
        if value is None:
            raise self.unknown(name, span)
        return tuple(sorted(value.axes, key=list(self.axes).index))

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
            self.timeless |= {
                made.name for made in self.let if set(references(made.value)) <= self.timeless
            }
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
                size = count_steps(item, self.axes)
                steps += [(a, (item.axis, i)) for i in range(size) for a in item.body]
            else:
                steps.append((item, None))
        if len(steps) > MAX_STATEMENTS:
            raise too_many_statements(steps[MAX_STATEMENTS][0].span)
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
            self.names.values = at_micro_step(outer, self.let, *self.micro, assign.span)
        else:
            check_outside(assign.value, self.names.values, self.repeated)
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

    def lower_outputs(self) -> list[Output]:
        self.section = "output"
        outputs = []
        for decl in self.spec.outputs:
            check_outside(decl.value, self.names.values, self.repeated)
            value = type_expression(decl.value, self.names)
            axes = decl.axes
            if axes is not None:
                check_axes(axes, self.axes, decl.span)
                if set(value.axes) != set(axes):
                    raise SpecError(
                        f"'{decl.name}' is declared with {show_axes(axes)}, "
                        f"its value has {show_axes(value.axes)}.",
                        decl.value.span,
                    )
            else:
                axes = self.output_axes(value)
            outputs.append(Output(decl.name, axes, value, decl.dtype, decl.value.first_line))
        return outputs

    def output_axes(self, value: Expr) -> tuple[str, ...]:
        """Order of a result's axes: as in the first state or input that has them all."""
        for axes in [d.axes for d in self.spec.states] + [d.axes for d in self.spec.inputs]:
            if set(value.axes) <= set(axes):
                return tuple(axis for axis in axes if axis in value.axes)
        rank = list(self.axes)
        return tuple(sorted(value.axes, key=rank.index))
