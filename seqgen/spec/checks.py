"""Checks that the YAML loader and the Python builder share: names, numbers, missing sections.

What needs the meaning of expressions (axes, order of definitions) is checked by ``passes.lower``.
"""

from __future__ import annotations

import ast
import keyword
import math
import re
from collections.abc import Iterable
from dataclasses import replace

from seqgen.errors import Span, SpecError, did_you_mean
from seqgen.spec.functions import FUNCTIONS
from seqgen.spec.model import (
    Assign,
    AxisDecl,
    Expression,
    OutputDecl,
    Repeat,
    Spec,
    StateDecl,
    TensorDecl,
)

ORDERS = ("forward", "reverse")
FAMILIES = ("scan", "linear", "delta", "dplr")
SCHEDULES = ("chunkwise",)
DTYPES = ("float32",)
CHUNKS = (16, 32, 64, 128, 256)

MAX_SIZE = 65536

MAX_STATEMENTS = 200  # assignments and outputs, micro-steps counted each
MAX_TENSORS = 64  # inputs, parameters and states

UNDECLARED_SIZE = 16
"""Default size of an axis that tensors name but ``axes`` does not list (heads, mostly)."""

_ARGUMENTS = ("initial_state", "output_final_state", "cu_seqlens", "state", "final_state")
_GENERATED = ("torch", "triton", "tl", "math", "SPEC", "CONFIGS")
_CONSTANTS = ("inf", "pi")
_LAUNCH = ("self", "grid", "warmup", "num_warps", "num_stages", "num_ctas", "maxnreg", "debug")


def check_name(name: str, span: Span, what: str) -> None:
    """``what`` ("An input") can be called ``name`` in YAML, in equations and in Python."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is None:
        raise SpecError(
            f"{what} cannot be called '{name}'.",
            span,
            label="not a name",
            hint="A name has letters, digits and '_', and begins with a letter.",
        )
    reason = ""
    if keyword.iskeyword(name):
        reason = "a Python keyword"
    elif name in FUNCTIONS:
        reason = f"the function {FUNCTIONS[name].signature}"
    elif name in _CONSTANTS:
        reason = "a constant"
    elif name in _ARGUMENTS:
        reason = "an argument or result of every operator"
    elif name in _GENERATED:
        reason = "a name the generated file needs"
    elif what == "An axis" and name in _LAUNCH:
        reason = "an argument of every kernel launch"
    elif what == "An axis" and name in ("B", "T"):
        reason = "the batch axis" if name == "B" else "the time axis"
    if reason:
        hint = "B and T are implied; leave them out." if name in ("B", "T") else ""
        raise SpecError(
            f"{what} cannot be called '{name}'.",
            span,
            label=reason,
            hint=hint or "Choose another name.",
        )


def check_choice(word: str, choices: Iterable[str], span: Span, what: str) -> None:
    """``word`` is one of ``choices``."""
    known = tuple(choices)
    if word not in known:
        hint = did_you_mean(word, known) or f"Choose from: {', '.join(known)}."
        raise SpecError(f"Unknown {what} '{word}'.", span, hint=hint)


def check_range(bounds: tuple[float, ...], span: Span) -> tuple[float, float]:
    """``bounds`` as a closed interval that holds at least one number."""
    if len(bounds) != 2:
        raise SpecError(
            "A range has two numbers.", span, hint="Write [lowest, highest], as in [-.inf, 0]."
        )
    low, high = bounds
    if math.isnan(low) or math.isnan(high):
        raise SpecError("A range has two numbers, and NaN is none.", span)
    if low > high:
        raise SpecError(
            f"This range is empty: {low:g} is more than {high:g}.",
            span,
            hint=f"Write [{high:g}, {low:g}]." if math.isfinite(low + high) else "Swap the two.",
        )
    if low == math.inf or high == -math.inf:
        raise SpecError("This range holds no finite number.", span)
    return low, high


def check_default(value: float, bounds: tuple[float, float] | None, span: Span) -> None:
    """A default is a finite number inside the declared range."""
    if not math.isfinite(value):
        raise SpecError("A default is a finite number.", span)
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        low, high = bounds
        raise SpecError(f"The default {value:g} lies outside the range [{low:g}, {high:g}].", span)


def check_init(value: float, span: Span) -> None:
    """The first value of a state is a number."""
    if math.isnan(value):
        raise SpecError("A state cannot start as NaN.", span)


def check_chunk(size: int, span: Span) -> None:
    """The chunk length is one that kernels are written for."""
    if size not in CHUNKS:
        choices = ", ".join(str(chunk) for chunk in CHUNKS)
        raise SpecError(
            f"A chunk cannot have {size} tokens.", span, hint=f"Write auto, or one of {choices}."
        )


def check_size(size: int, name: str, span: Span) -> None:
    """The default size of an axis is one that a tensor can have."""
    if not 1 <= size <= MAX_SIZE:
        raise SpecError(f"The size of axis '{name}' must be 1 to {MAX_SIZE}.", span)


def check_relation(
    name: str, groups_of: str | None, same_as: str | None, size: int | None, span: Span
) -> None:
    """An axis has one relation, not to itself, and no size where the relation gives it."""
    if groups_of is not None and same_as is not None:
        raise SpecError(f"Axis '{name}' is either 'groups_of' or 'same_as' another axis.", span)
    if same_as is not None and size is not None:
        raise SpecError(f"Axis '{name}' has the size of '{same_as}' and no other.", span)
    if name in (groups_of, same_as):
        raise SpecError(f"Axis '{name}' cannot be related to itself.", span)
    if size is not None:
        check_size(size, name, span)


def check_axes(axes: tuple[tuple[str, Span], ...]) -> None:
    """Axes of one tensor: good names, none twice."""
    seen: set[str] = set()
    for name, span in axes:
        check_name(name, span, "An axis")
        if name in seen:
            raise SpecError(f"Axis '{name}' is named twice.", span)
        seen.add(name)


def complete(spec: Spec, uses: Iterable[tuple[str, Span]]) -> Spec:
    """``spec`` with every axis in ``axes``, after checks that look at all of it.

    Args:
        spec: as written.
        uses: each axis that a tensor or a relation names, in the order of the text.
    """
    _check_sections(spec)
    _check_counts(spec)
    _check_result_names(spec)
    axes = {axis.name: axis for axis in spec.axes}
    for name, span in uses:
        if name in axes:
            continue
        folded = {known.lower(): known for known in axes}
        if name.lower() in folded:
            raise SpecError(
                f"Axis '{name}' is not declared.",
                span,
                label="unknown axis",
                hint=f"Did you mean '{folded[name.lower()]}'?",
            )
        axes[name] = AxisDecl(name, span, size=UNDECLARED_SIZE)
    return replace(spec, axes=tuple(axes.values()))


def _check_sections(spec: Spec) -> None:
    if not spec.inputs:
        raise _missing(spec, "inputs", "inputs: {x: [D]}")
    if not spec.outputs:
        raise _missing(spec, "output", "output: {o: expression}")
    if spec.states:
        if not spec.update:
            raise _missing(spec, "update", "update: ['S = expression']")
    elif not any(_looks_back(expression) for expression in _expressions(spec)):
        raise _missing(spec, "state", "state: {S: [H, K, V]}")


def _check_counts(spec: Spec) -> None:
    """Bounds what the compiler's passes have to go through."""
    tensors: list[TensorDecl | StateDecl] = [*spec.inputs, *spec.parameters, *spec.states]
    if len(tensors) > MAX_TENSORS:
        raise SpecError(
            f"An operator has at most {MAX_TENSORS} inputs, parameters and states.",
            tensors[MAX_TENSORS].span,
            label="one too many",
        )
    statements: list[Assign | Repeat | OutputDecl] = [*spec.let, *spec.update, *spec.outputs]
    if len(statements) > MAX_STATEMENTS:
        raise too_many_statements(statements[MAX_STATEMENTS].span)


def too_many_statements(span: Span) -> SpecError:
    """An error: this statement is one too many."""
    return SpecError(
        f"An operator has at most {MAX_STATEMENTS} statements.",
        span,
        label="one too many",
        notes=["Each micro-step of a repeat block counts."],
    )


def _missing(spec: Spec, section: str, example: str) -> SpecError:
    return SpecError(
        f"The operator '{spec.operator}' has no '{section}'.",
        spec.span,
        hint=f"Add a line such as: {example}",
    )


def _expressions(spec: Spec) -> Iterable[Expression]:
    for assign in spec.let:
        yield assign.value
    for item in spec.update:
        for assign in item.body if isinstance(item, Repeat) else (item,):
            yield assign.value
    for output in spec.outputs:
        yield output.value


def _looks_back(expression: Expression) -> bool:
    """Whether a delay state will come from ``prev`` or ``position``."""
    names = (node.id for node in ast.walk(expression.tree) if isinstance(node, ast.Name))
    return any(name in ("prev", "position") for name in names)


def _check_result_names(spec: Spec) -> None:
    """The operator's and the outputs' names are taken by nothing else."""
    taken = {axis.name: "an axis" for axis in spec.axes}
    taken |= {tensor.name: "an input" for tensor in spec.inputs}
    taken |= {tensor.name: "a parameter" for tensor in spec.parameters}
    taken |= {state.name: "a state" for state in spec.states}
    if spec.operator in taken:
        raise SpecError(
            f"'{spec.operator}' is {taken[spec.operator]} and the operator.",
            spec.span,
            label="name already taken",
            hint="Give the operator a name of its own.",
        )
    for output in spec.outputs:
        if output.name in taken:
            raise SpecError(
                f"'{output.name}' is {taken[output.name]} and an output.",
                output.span,
                label="name already taken",
                hint="Give the output a name of its own.",
            )
