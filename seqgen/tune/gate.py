"""The correctness gate: may a configuration become a candidate at all?

A configuration passes if the whole operator, run with it on the real GPU, gives results near the
float64 reference, the same bits in three runs, and reads nothing that was not written: every
fresh buffer is filled with NaN before. Triton has miscompiled kernels silently, and some
configurations race only at some block sizes; one comparison at one shape finds neither.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seqgen.tune.benchmark import Call
from seqgen.tune.harness import Harness, repeat, run_operator, tensors_in
from seqgen.tune.inputs import Inputs, Style, make_inputs
from seqgen.tune.results import Verdict
from seqgen.tune.workload import Workload

RUNS = 3
OUTPUT_LIMIT, VECTOR_LIMIT, GATE_LIMIT, FP32_LIMIT = 0.005, 0.008, 0.02, 1e-4
ABSOLUTE_FLOOR = 1e-4
"""Of the largest output or gradient of a case: a true value below it counts as vanishing."""

RAGGED_T, PACKED, EXTREME_T = 300, (0, 1, 1, 130, 203), 131


@dataclass(frozen=True)
class Case:
    """Inputs at which the operator is compared, and what is true there."""

    name: str
    inputs: Inputs
    truth: Mapping[str, Tensor]


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
        truth = run_operator(harness.reference, workload, inputs, double=True)
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


def verify(harness: Harness, cases: list[Case], launches: list[Call]) -> Verdict:
    """Judge the configurations that ``harness`` uses now.

    Args:
        harness: the module and its workload.
        cases: from ``make_cases``.
        launches: of the kernel in question at the size that is timed; only their repeatability is
            judged (races show at full load).
    """
    worst = Verdict("ok", error=0.0, limit=1.0)
    for case in cases:
        verdict = _compare(harness, case)
        if verdict.outcome != "ok":
            return verdict
        if _nearness(verdict) >= _nearness(worst):
            worst = verdict
    call = repeat(launches)
    with poisoned():
        first = [_bits(t) for t in tensors_in(call())]
        for _ in range(RUNS - 1):
            again = [_bits(t) for t in tensors_in(call())]
            if not all(torch.equal(a, b) for a, b in zip(first, again, strict=True)):
                return Verdict("racy", worst="full_size")
    return worst


def _compare(harness: Harness, case: Case) -> Verdict:
    with poisoned():
        runs = [run_operator(harness.operator, harness.workload, case.inputs) for _ in range(RUNS)]
    scale = {
        gradient: max(_rms(t) for n, t in case.truth.items() if n.startswith("d_") == gradient)
        for gradient in (False, True)
    }
    worst = Verdict("ok", error=0.0, limit=1.0)
    for name, truth in case.truth.items():
        value = runs[0][name]
        # An operator may truly overflow somewhere; there the value has to as well.
        finite = truth.isfinite()
        if not torch.equal(value.isfinite(), finite):
            return Verdict("nan", worst=f"{case.name} {name}")
        if any(not torch.equal(_bits(value), _bits(run[name])) for run in runs[1:]):
            return Verdict("racy", worst=f"{case.name} {name}")
        limit = limit_of(name, harness.workload)
        error = relative_error(
            value[finite], truth[finite], ABSOLUTE_FLOOR * scale[name.startswith("d_")]
        )
        found = Verdict(
            "ok" if error <= limit else "inaccurate", f"{case.name} {name}", error, limit
        )
        if found.outcome != "ok":
            return found
        if _nearness(found) >= _nearness(worst):
            worst = found
    return worst


def _nearness(verdict: Verdict) -> float:
    return (verdict.error or 0.0) / (verdict.limit or 1.0)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(-1).view(torch.uint8)
