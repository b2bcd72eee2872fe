"""Equations behind FLA's functions: one ``Form`` per combination of arguments, built once.

A form is hashable, so that it can be the key of the operators that were built. Where it says the
same as a spec in ``examples/`` it is the same operator, and takes that one's tuned configurations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import inf
from typing import Any, NamedTuple

from torch import Tensor, float32

from seqgen.loading import load
from seqgen.spec.builder import OperatorBuilder
from seqgen.spec.model import Spec


class Operand(NamedTuple):
    """How one tensor is declared; ``axes`` are those behind batch and time."""

    name: str
    axes: str
    wide: bool = False
    """Float32 beside inputs of 16 bits."""
    decay: bool = False
    """A log-decay, promised not to exceed 0."""

    @property
    def declared(self) -> dict[str, Any]:
        """Keywords of ``OperatorBuilder.input`` and ``parameter``."""
        found: dict[str, Any] = {"dtype": "float32"} if self.wide else {}
        return found | ({"range": (-inf, 0.0)} if self.decay else {})


def plain(
    name: str, axes: str, tensor: Tensor | None = None, first: Tensor | None = None
) -> Operand:
    """An input; if given, in float32 where ``tensor`` is in float32 and ``first`` is not."""
    if tensor is None or first is None:
        return Operand(name, axes)
    return Operand(name, axes, wide=tensor.dtype == float32 and first.dtype != float32)


def decay(name: str, axes: str) -> Operand:
    """A log-decay, which may stay in float32."""
    return Operand(name, axes, wide=True, decay=True)


QKV = (Operand("q", "H K"), Operand("k", "H K"), Operand("v", "H V"))
QKV_GROUPED = (Operand("q", "H K"), Operand("k", "H K"), Operand("v", "HV V"))


@dataclass(frozen=True)
class Form:
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
        for operand in self.inputs:
            builder.input(operand.name, *operand.axes.split(), **operand.declared)
        for operand in self.parameters:
            builder.parameter(operand.name, *operand.axes.split(), **operand.declared)
        for name, axes in self.states:
            builder.state(name, *axes.split())
        builder.let(**dict(self.let)).update(*self.update).output(o=self.output)
        return builder.scan("reverse" if self.reverse else "forward").build()


@cache
def operator(form: Form) -> Callable[..., Any]:
    """The function of a form, built at its first use."""
    return load(form.spec())


def scaled(scale: float | None, value: str = "q") -> str:
    """The query times ``scale``; it is a number of the operator, so a new one builds a new one."""
    if scale is None:
        return f"{value} * K ** -0.5"
    return value if scale == 1 else f"{value} * ({float(scale)!r})"


def queries(scale: float | None, normalise: bool, name: str = "q") -> tuple[tuple[str, str], ...]:
    """The ``let`` lines of queries and keys: normalised if asked for, then scaled."""
    if normalise:
        query = scaled(scale, f"l2norm({name}, K)")
        return (name, query), ("k", "l2norm(k, K)")
    query = scaled(scale, name)
    return () if query == name else ((name, query),)
