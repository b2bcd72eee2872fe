"""Equations behind FLA's functions: one ``Form`` per combination of arguments, built once.

A form is a tuple of constants and the key of the operator that it was built into. Where it says
the same as a spec in ``examples/`` it is the same operator, with that one's tuned configurations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from itertools import count
from math import inf
from typing import Any, NamedTuple

from torch import Tensor, float32
from torch.compiler import assume_constant_result

from seqgen.loading import load
from seqgen.spec.builder import OperatorBuilder
from seqgen.spec.model import Spec

Operand = tuple[str, str, bool, bool]
"""Name, axes behind batch and time, whether float32 beside 16 bits, whether a log-decay."""


def operand(name: str, axes: str, wide: bool = False, decay: bool = False) -> Operand:
    """How a tensor is declared; a log-decay is promised not to exceed 0."""
    return name, axes, wide, decay


def plain(name: str, axes: str, tensor: Tensor, first: Tensor) -> Operand:
    """An input that is in float32 where ``tensor`` is and ``first`` is not."""
    return operand(name, axes, wide=tensor.dtype == float32 and first.dtype != float32)


def decay(name: str, axes: str) -> Operand:
    """A log-decay with a time axis, which may stay in float32."""
    return operand(name, axes, wide=True, decay=True)


QKV = (operand("q", "H K"), operand("k", "H K"), operand("v", "H V"))
QKV_GROUPED = (operand("q", "H K"), operand("k", "H K"), operand("v", "HV V"))


DTYPE = {True: "float32", False: None}
RANGE = {True: (-inf, 0.0), False: None}


class Form(NamedTuple):
    """One operator, as the arguments of ``OperatorBuilder``."""

    name: str
    inputs: tuple[Operand, ...]
    update: tuple[str, ...]
    let: tuple[tuple[str, str], ...] = ()
    output: str = "sum(q * S, K)"
    states: tuple[tuple[str, str], ...] = (("S", "H K V"),)
    parameters: tuple[Operand, ...] = ()
    sizes: tuple[tuple[str, int], ...] = (("K", 128), ("V", 128))
    reverse: bool = False

    def spec(self) -> Spec:
        """The form as a spec; its default sizes are those of the examples."""
        builder = OperatorBuilder(self.name).axes(**dict(self.sizes))
        if any("HV" in axes.split() for _, axes in self.states):
            builder.axis("HV", groups_of="H")
        for name, axes, wide, decays in self.inputs:
            builder.input(name, *axes.split(), dtype=DTYPE[wide], range=RANGE[decays])
        for name, axes, wide, decays in self.parameters:
            builder.parameter(name, *axes.split(), dtype=DTYPE[wide], range=RANGE[decays])
        for name, axes in self.states:
            builder.state(name, *axes.split())
        builder.let(**dict(self.let)).update(*self.update).output(o=self.output)
        return builder.scan("reverse" if self.reverse else "forward").build()


_BUILT: dict[int, Callable[..., Any]] = {}
_PLACES = count()


def operator(form: Form) -> Callable[..., Any]:
    """The function of a form, built at its first use."""
    place: int = _place(*form)
    return _BUILT[place]


@assume_constant_result  # type: ignore[untyped-decorator]
def _place(*fields: Any) -> int:
    # torch.compile calls this while it traces, with constants (a NamedTuple is none) and for one.
    return _build(Form(*fields))


@cache
def _build(form: Form) -> int:
    place = next(_PLACES)
    _BUILT[place] = load(form.spec())
    return place


def queries(
    scale: float | None, query: Tensor, normalise: bool = False, name: str = "q"
) -> tuple[tuple[str, str], ...]:
    """The ``let`` lines of queries and keys: normalised if asked for, then scaled.

    The scale is a number in the equations, so that a new one builds a new operator.
    """
    value = f"l2norm({name}, K)" if normalise else name
    if scale is None or scale == query.shape[-1] ** -0.5:
        scaled = f"{value} * K ** -0.5"
    else:
        scaled = value if scale == 1 else f"{value} * ({float(scale)!r})"
    keys = (("k", "l2norm(k, K)"),) if normalise else ()
    return keys if scaled == name else ((name, scaled), *keys)
