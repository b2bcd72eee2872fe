"""``seqgen verify``: a built operator against its own float64 reference, gradients included.

On a GPU the compiled kernels run; elsewhere Triton's interpreter runs the same kernels on the CPU,
on small sizes.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seqgen.errors import SeqgenError, UsageError
from seqgen.verify_inputs import (
    Case,
    make_arguments,
    reached_states,
    verify_cases,
    verify_sizes,
)

if TYPE_CHECKING:
    import torch

# Design: RMS error relative to the RMS of the float64 result.
LIMITS = {
    "fp32": {"result": 1e-4, "gradient": 1e-4, "gate": 1e-4},
    "fp16": {"result": 0.005, "gradient": 0.008, "gate": 0.02},
    "bf16": {"result": 0.005, "gradient": 0.008, "gate": 0.02},
}

LOSS_SCALE = {"fp16": 64.0}
"""Of the gradients that come in: fp16 ends at 6e-8, which is why its losses are scaled."""


@dataclass(frozen=True)
class Comparison:
    """One tensor of one case: its relative RMS error and the limit it has to keep."""

    case: str
    tensor: str
    error: float
    limit: float
    chunkwise: bool = False
    """Whether chunkwise kernels gave it, and not the token-serial ones."""
    defined: bool = True
    """Whether the float64 result is finite: if not, the equations are at fault, not the kernels."""

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # False for NaN


def run_verify(source: Path, dtypes: list[str] | None, as_json: bool) -> int:
    """Verify a spec or a built file; prints a table, a verdict, and returns the exit status."""
    if dtypes is None:
        dtypes = ["fp32", "bf16" if _has_gpu() else "fp16"]
    elif "bf16" in dtypes and not _has_gpu():
        # It keeps bf16 as integers and multiplies these in a matrix product.
        raise UsageError(
            "Triton's interpreter has no matrix products of bf16. Without a GPU, use fp32 or fp16."
        )
    module = _load(source)
    comparisons = [c for dtype in dtypes for c in verify(module, dtype)]
    if as_json:
        print(json.dumps([asdict(c) | {"passed": c.passed} for c in comparisons]))
    else:
        print(f"{'case':<28}{'tensor':<18}{'error':>10}{'limit':>10}")
        for c in comparisons:
            verdict = (
                "" if c.passed else "  FAILED" if c.defined else "  not finite in float64 either"
            )
            print(f"{c.case:<28}{c.tensor:<18}{c.error:>10.1e}{c.limit:>10.0e}{verdict}")
    # With --json, stdout is for programs alone.
    print(
        _summary(module.SPEC["operator"], comparisons), file=sys.stderr if as_json else sys.stdout
    )
    return 0 if all(c.passed for c in comparisons) else 1


def _summary(name: str, comparisons: list[Comparison]) -> str:
    passed = sum(c.passed for c in comparisons)
    where = "on this GPU" if _has_gpu() else "in Triton's interpreter (no GPU here)"
    text = f"{name}: {passed} of {len(comparisons)} agree with float64, {where}."
    cases = {c.case: c.chunkwise for c in comparisons}
    if any(cases.values()):
        ran = f"{sum(cases.values())} of {len(cases)} cases ran in chunks"
        text += f" {ran}, short ones token by token."
    else:
        text += " All cases ran token by token."
    undefined = sum(not c.defined for c in comparisons)
    if undefined:
        text += (
            f" {undefined} are not finite in float64 either: there the equations overflow or divide"
            " by zero, whatever runs them."
        )
    return text


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _load(source: Path) -> ModuleType:
    """The module of a built file, or of a spec built into the cache."""
    if not _has_gpu():
        if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
            raise SeqgenError("Set TRITON_INTERPRET=1 before Triton is imported.")
        os.environ["TRITON_INTERPRET"] = "1"
    from seqgen.loading import load_operator
    from seqgen.runtime.loader import load_module

    if source.suffix == ".py":
        return load_module(source)
    return load_operator(source)


def verify(module: ModuleType, dtype: str) -> list[Comparison]:
    """Compare results and all gradients with float64 autograd through the reference.

    Every case has an initial state and a gradient into the final one.
    """
    rows = []
    for case in verify_cases(module.SPEC, _has_gpu()):
        rows += _compare(module, dtype, case)
    return rows


def _compare(module: ModuleType, dtype: str, case: Case) -> list[Comparison]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    borders, label, spec = case.borders, f"{dtype} {case.name}", module.SPEC
    io = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    generator = torch.Generator().manual_seed(20)
    sizes = verify_sizes(spec, device == "cuda", case)
    arguments = make_arguments(spec, sizes, case, io, generator)
    reached = reached_states(module, sizes, case, arguments, generator)
    tensors = {name: value.to(device) for name, value in arguments.items()}
    states = [state.to(device) for state in reached]
    packing = None if borders is None else torch.tensor(borders, device=device, dtype=torch.int32)
    operator = getattr(module, spec["operator"])
    reference = getattr(module, f"{spec['operator']}_reference")
    with _launched(module) as launchers:
        found, leaves = _run(operator, spec, tensors, states, packing, None)
    serial = ("launch_recurrent_", "launch_scan_")
    chunkwise = not all(name.startswith(serial) for name in launchers)
    # It takes token after token: on a GPU only where their states are large.
    where = device if max((state.numel() for state in states), default=0) > 1 << 14 else "cpu"
    arguments = {name: value.to(where) for name, value in arguments.items()}
    given = None if packing is None else packing.to(where)
    reached = [state.to(where) for state in reached]
    exact, exact_leaves = _run(reference, spec, arguments, reached, given, torch.float64)
    labels = [*spec["outputs"], *(f"{name} (final)" for name in spec["states"])]
    # Both get the same gradients of results, rounded once, as they get the same inputs.
    scale = LOSS_SCALE.get(dtype, 1.0)
    weights = [(torch.randn(f.shape, generator=generator) * scale).to(f.dtype) for f in found]
    gradients = _gradients(found, leaves, weights)
    exact_gradients = _gradients(exact, exact_leaves, weights)
    limits = LIMITS[dtype]

    def compared(name: str, a: torch.Tensor, b: torch.Tensor, limit: float) -> Comparison:
        defined = bool(torch.isfinite(b).all())
        return Comparison(label, name, relative_error(a, b), limit, chunkwise, defined)

    rows = [
        compared(name, a, b, limits["result"])
        for name, a, b in zip(labels, found, exact, strict=True)
    ]
    names = [*tensors, *(f"initial {name}" for name in spec["states"])]
    key = max((len(t["axes"]) for t in spec["arguments"].values()), default=0)
    for name, a, b in zip(names, gradients, exact_gradients, strict=True):
        gate = name in tensors and len(spec["arguments"][name]["axes"]) < key
        limit = limits["gate" if gate else "gradient"]
        rows.append(compared(f"d {name}", a, b, limit))
    return rows


@contextmanager
def _launched(module: ModuleType) -> Iterator[set[str]]:
    """Notes the launchers that run inside."""
    names: set[str] = set()
    launchers = {n: f for n, f in vars(module).items() if n.startswith("launch_")}

    def noted(name: str, launch: Any) -> Any:
        @functools.wraps(launch)
        def run(*args: Any, **kwargs: Any) -> Any:
            names.add(name)
            return launch(*args, **kwargs)

        return run

    try:
        for name, launch in launchers.items():
            setattr(module, name, noted(name, launch))
        yield names
    finally:
        for name, launch in launchers.items():
            setattr(module, name, launch)


def _run(
    function: Any,
    spec: dict[str, Any],
    tensors: dict[str, torch.Tensor],
    states: list[torch.Tensor],
    packing: torch.Tensor | None,
    dtype: torch.dtype | None,
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Results and leaves of one call, in ``dtype`` if given."""
    leaves = [
        t.detach().to(dtype or t.dtype).requires_grad_() for t in (*tensors.values(), *states)
    ]
    named = dict(zip(tensors, leaves, strict=False))
    given = leaves[len(tensors) :]
    positional = [v for n, v in named.items() if spec["arguments"][n]["required"]]
    optional = {n: v for n, v in named.items() if not spec["arguments"][n]["required"]}
    *outputs, final = function(
        *positional,
        initial_state=given[0] if len(given) == 1 else tuple(given),
        output_final_state=True,
        cu_seqlens=packing,
        **optional,
    )
    return [*outputs, *(final if isinstance(final, tuple) else (final,))], leaves


def _gradients(
    results: list[torch.Tensor], leaves: list[torch.Tensor], weights: list[torch.Tensor]
) -> list[torch.Tensor]:
    import torch

    loss = sum((r * w.to(r)).sum() for r, w in zip(results, weights, strict=True))
    found = torch.autograd.grad(loss, leaves, allow_unused=True)  # type: ignore[arg-type]
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves, found, strict=True)
    ]


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """RMS(found - exact) / RMS(exact); the absolute error where the exact value vanishes."""
    if exact.numel() == 0:
        return 0.0
    exact = exact.detach().double()
    difference = (found.detach().to(exact) - exact).square().mean().sqrt()
    size = exact.square().mean().sqrt()
    return float(difference / size) if float(size) > 1e-6 else float(difference)
