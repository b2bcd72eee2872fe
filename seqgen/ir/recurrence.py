"""The recurrence as mathematics: what happens at one token, in single-assignment form.

    values  = inputs at t, parameters, incoming states
    let     : assignments that read no state
    update  : assignments that may read states; the new states are among them
    outputs : expressions over all of these

Names of values (``Ref.name``):

* an input or parameter has ``Tensor.value``: its declared name, or ``<name>_in`` where a ``let``
  re-binds the name;
* the incoming value of state S (what the token before left) is ``S_prev``;
* assignments have the user's target name; where a state is assigned several times, the last
  version has the state's name and earlier ones ``S_1``, ``S_2``, ...; micro-steps append ``_m0``,
  ``_m1``, ...

``prev(x)`` of an input or a ``let`` has become a delay state ``prev_x`` (two tokens back:
``prev2_x``) and ``position()`` a delay state ``position``: they are ordinary states here, listed
last, with ``delay=True``; their incoming value has the state's own name.
Several declared tensors never share a value name, so one dictionary holds them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from seqgen.errors import Span
from seqgen.ir.expr import Expr, Ref


@dataclass(frozen=True)
class Axis:
    """A named axis. ``parent`` if ``groups_of``; ``twin`` if ``same_as``.

    ``size`` is the default size; every axis may have another at run time, except one that
    ``repeat`` unrolled (``fixed``). ``derived`` gives the size of an axis from others, as Python
    text over axis names (``"2*R"``).
    """

    name: str
    size: int
    parent: str | None = None
    twin: str | None = None
    derived: str | None = None
    fixed: bool = False


@dataclass(frozen=True)
class Tensor:
    """An input or parameter, axes in the order of the user's memory layout."""

    name: str
    axes: tuple[str, ...]
    kind: str  # "input" or "parameter"
    value: str  # name of its value in expressions
    dtype: str | None = None  # None: the io dtype (inputs) or float32 (parameters)
    range: tuple[float, float] | None = None
    optional: bool = False
    default: float | None = None

    @property
    def required(self) -> bool:
        return not self.optional and self.default is None


@dataclass(frozen=True)
class State:
    """A state, axes in declaration order; ``init`` where no initial state is given."""

    name: str
    axes: tuple[str, ...]
    init: float = 0.0
    delay: bool = False

    @property
    def incoming(self) -> str:
        """Name of the value this state has before the token."""
        return self.name if self.delay else f"{self.name}_prev"


@dataclass(frozen=True)
class Assignment:
    """``name = value``; ``equation`` is the user's text it came from, for comments."""

    name: str
    value: Expr
    equation: str = ""


@dataclass(frozen=True)
class Output:
    """A result per token, axes in the order of its memory layout.

    ``dtype`` None: that of the first input without a declared dtype. ``span`` is where the user
    wrote its value, for messages.
    """

    name: str
    axes: tuple[str, ...]
    value: Expr
    dtype: str | None = None
    span: Span | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class MicroSteps:
    """A recurrence whose tokens are the micro-steps of another one's tokens.

    Outputs are those of a token's last micro-step.

    Attributes:
        recurrence: what a micro-step does. Of a tensor each sees what its token has.
        count: micro-steps of a token.
        axis: the axis of ``repeat``, which tensors have lost here; None where the micro-steps are
            the products that a token writes.
        flags: further inputs, 1 at one micro-step of each token and 0 at the others: name, and
            number of the micro-step (-1 is the last).
    """

    recurrence: Recurrence
    count: int
    axis: str | None
    flags: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Recurrence:
    """One operator, ready for analysis and code generation. Immutable."""

    name: str
    about: str
    axes: tuple[Axis, ...]
    inputs: tuple[Tensor, ...]
    parameters: tuple[Tensor, ...]
    states: tuple[State, ...]
    let: tuple[Assignment, ...]
    update: tuple[Assignment, ...]
    final: tuple[tuple[str, str], ...]
    """(state name, name of the value it has after the token), in the order of ``states``."""
    outputs: tuple[Output, ...]
    equations: tuple[str, ...]
    """The user's lines, in order, for headers and comments."""
    reverse: bool = False
    chunk: int | None = None
    require: str | None = None
    micro: MicroSteps | None = field(default=None, compare=False)
    """The same with a token for each step of its ``repeat`` block, where that is possible."""
    origin: str = field(default="", compare=False)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return self.inputs + self.parameters

    @property
    def assignments(self) -> tuple[Assignment, ...]:
        return self.let + self.update

    def axis(self, name: str) -> Axis:
        return next(axis for axis in self.axes if axis.name == name)

    def state(self, name: str) -> State:
        return next(state for state in self.states if state.name == name)

    def tensor(self, name: str) -> Tensor:
        """By declared name."""
        return next(tensor for tensor in self.tensors if tensor.name == name)

    def output(self, name: str) -> Output | None:
        """The output of this name; None if there is none."""
        return next((output for output in self.outputs if output.name == name), None)

    def order(self, axes: tuple[str, ...]) -> tuple[str, ...]:
        """``axes`` in the recurrence's canonical order: that of declaration."""
        rank = {axis.name: i for i, axis in enumerate(self.axes)}
        return tuple(sorted(axes, key=rank.__getitem__))

    def leaves(self) -> Iterator[Ref]:
        """References to everything that a token takes in, in declaration order."""
        for tensor in self.tensors:
            yield Ref(tensor.value, tensor.axes)
        for state in self.states:
            yield Ref(state.incoming, state.axes)

    def argument_order(self) -> tuple[Tensor, ...]:
        """Positional tensors first (required inputs, required parameters), then keyword-only."""
        required = tuple(t for t in self.tensors if t.required)
        return required + tuple(t for t in self.tensors if not t.required)
