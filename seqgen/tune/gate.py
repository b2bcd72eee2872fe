"""The correctness gate: may a configuration become a candidate at all?

A configuration passes if the whole operator, run with it on the real GPU, gives results near the
float64 reference, the same bits in three runs, and reads nothing that was not written: every
fresh buffer is filled with NaN before. Triton has miscompiled kernels silently, and some
configurations race only at some block sizes; one comparison at one shape finds neither.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seqgen.tune.harness import Harness, OperatorRun
from seqgen.tune.inputs import Inputs, Style, make_inputs
from seqgen.tune.results import Verdict
from seqgen.tune.workload import Workload

RUNS = 3
OUTPUT_LIMIT, VECTOR_LIMIT, GATE_LIMIT, FP32_LIMIT = 0.005, 0.008, 0.02, 1e-4
ABSOLUTE_FLOOR = 1e-4
"""Of the largest output or gradient of a case: a true value below it counts as vanishing."""

LARGE = 1e4
"""A result with a larger RMS comes from a recurrence that diverges at this length."""

RAGGED_T, PACKED, EXTREME_T = 300, (0, 1, 1, 130, 203), 144
"""The last is a multiple of 16: kernels are compiled anew for such lengths."""


@dataclass(frozen=True)
class Case:
    """Inputs at which the operator is compared, and what is right there.

    ``slack`` multiplies the limits where ``truth`` is itself rounded.
    """

    name: str
    inputs: Inputs
    truth: Mapping[str, Tensor]
    slack: float = 1.0

    def scale(self, gradients: bool) -> float:
        """The largest RMS among the gradients, or among the results."""
        mine = [t for n, t in self.truth.items() if n.startswith("d_") == gradients]
        return max((_rms(t) for t in mine), default=0.0)

    def is_finite(self, name: str) -> bool:
        """Whether a true result has no infinity."""
        return bool(self.truth[name].isfinite().all())


def limit_of(name: str, workload: Workload) -> float:
    """The largest relative RMS error of a result (``output_0``, ``d_q``, ...)."""
    if workload.dtype == "fp32":
        return FP32_LIMIT
    if not name.startswith("d_"):
        return OUTPUT_LIMIT
    gates = {f"d_{operand.name}" for operand in workload.operands if operand.gate_like}
    return GATE_LIMIT if name in gates else VECTOR_LIMIT


def relative_error(value: Tensor, truth: Tensor, floor: float) -> float:
    """RMS(value - truth) / max(RMS(truth), floor), in float64; 0 for empty tensors."""
    if truth.numel() == 0:
        return 0.0
    difference = (value.double() - truth).square().mean().sqrt()
    return float(difference / max(_rms(truth), floor, 1e-300))


def _rms(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()].double()
    return float(finite.square().mean().sqrt()) if finite.numel() else 0.0


def make_cases(harness: Harness, keep: frozenset[str], seed: int, device: str) -> list[Case]:
    """Small cases that together meet ragged and packed sequences and extreme gates.

    Args:
        harness: the module and its workload.
        keep: axes whose size a kernel tiles; the others shrink to keep the reference quick.
        seed: of the inputs.
        device: where to run.
    """
    small = harness.workload.shrunk(keep)

    def case(name: str, batch: int, length: int, offset: int, **options: Any) -> Case:
        workload = small.at(B=batch, T=length)
        inputs = make_inputs(workload, seed + offset, device, **options)
        truth = OperatorRun(harness.reference, workload, inputs, double=True)()
        return Case(name, inputs, truth)

    def extreme(style: Style) -> Case:
        return case("extreme", 2, EXTREME_T, 3, style=style, with_state=True)

    cases = [
        case("ragged", 2, RAGGED_T, 1, with_state=True),
        case("packed", 1, PACKED[-1], 2, borders=PACKED, with_state=True),
        extreme("infinite"),
    ]
    # Where an infinite gate has no true gradient (0 times infinity), large ones have to do.
    if not all(bool(t.isfinite().all()) for t in cases[-1].truth.values()):
        cases[-1] = extreme("extreme")
    return cases


@contextmanager
def poisoned() -> Iterator[None]:
    """Fill every new floating-point buffer with NaN."""

    def poisoning(function: Any) -> Any:
        @functools.wraps(function)
        def make(*args: Any, **kwargs: Any) -> Tensor:
            tensor: Tensor = function(*args, **kwargs)
            return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

        return make

    places = [(torch, "empty"), (torch, "empty_like"), (torch, "empty_strided")]
    places += [(torch.Tensor, "new_empty"), (torch.Tensor, "new_empty_strided")]  # type: ignore[list-item]
    before = [(owner, name, getattr(owner, name)) for owner, name in places]
    try:
        for owner, name, function in before:
            setattr(owner, name, poisoning(function))
        yield
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def full_size_case(harness: Harness, inputs: Inputs) -> Case:
    """The timed problem itself, to be compared with what the present configurations give.

    Kernels are specialised on alignment and sizes, so small cases run other machine code, and
    races show at full load. A result that overflows or grows without bound is left out.
    """
    found = OperatorRun(harness.operator, harness.workload, inputs)()
    tame = {n: t for n, t in found.items() if bool(t.isfinite().all()) and _rms(t) < LARGE}
    return Case("full_size", inputs, tame, slack=2.0)


def verify(harness: Harness, cases: Sequence[Case]) -> Verdict:
    """Judge the configurations that ``harness`` uses now.

    Args:
        harness: the module and its workload.
        cases: from ``make_cases`` and ``full_size_case``.
    """
    worst = Verdict("ok", error=0.0, limit=1.0)
    for case in cases:
        verdict = _compare(harness, case)
        if verdict.outcome != "ok":
            return verdict
        if _nearness(verdict) >= _nearness(worst):
            worst = verdict
    return worst


def _compare(harness: Harness, case: Case) -> Verdict:
    run = OperatorRun(harness.operator, harness.workload, case.inputs)
    with poisoned():
        first = run()
        for _ in range(RUNS - 1):
            again = run()
            for name in case.truth:
                if not torch.equal(_bits(first[name]), _bits(again[name])):
                    # What was never written may differ as well; say which of the two it is.
                    strange = bool(first[name].isnan().any()) and case.is_finite(name)
                    return Verdict("nan" if strange else "racy", f"{case.name} {name}")
    worst = Verdict("ok", error=0.0, limit=1.0)
    for name, truth in case.truth.items():
        # An operator may truly overflow somewhere; there the value has to as well.
        finite = truth.isfinite()
        if not torch.equal(first[name].isfinite(), finite):
            return Verdict("nan", worst=f"{case.name} {name}")
        limit = case.slack * limit_of(name, harness.workload)
        floor = ABSOLUTE_FLOOR * case.scale(name.startswith("d_"))
        error = relative_error(first[name][finite], truth[finite], floor)
        found = Verdict("ok", f"{case.name} {name}", error, limit)
        if not error <= limit:
            return replace(found, outcome="inaccurate")
        if _nearness(found) >= _nearness(worst):
            worst = found
    return worst


def _nearness(verdict: Verdict) -> float:
    return (verdict.error or 0.0) / (verdict.limit or 1.0)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)
