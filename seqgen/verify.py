"""``seqgen verify``: a built operator against its own float64 reference, gradients included.

On a GPU the compiled kernels run; elsewhere Triton's interpreter runs the same kernels on the CPU,
on small sizes.
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seqgen.errors import SeqgenError, UsageError

if TYPE_CHECKING:
    import torch

# Design: RMS error relative to the RMS of the float64 result.
LIMITS = {
    "fp32": {"result": 1e-4, "gradient": 1e-4, "gate": 1e-4},
    "fp16": {"result": 0.005, "gradient": 0.008, "gate": 0.02},
    "bf16": {"result": 0.005, "gradient": 0.008, "gate": 0.02},
}


@dataclass(frozen=True)
class Case:
    """One call to compare: a batch of sequences, or packed ones, with decays of one kind."""

    name: str
    batch: int
    length: int
    borders: tuple[int, ...] | None = None
    decay: str = "usual"
    """Of inputs whose range reaches -inf: none, weak, strong, or a value at every fifth token."""
    wide: bool = False
    """In the interpreter, sizes from which on the chunkwise kernels serve."""


LENGTHS = (Case("T=1", 2, 1), Case("T=17", 2, 17), Case("T=70", 2, 70))
PACKED = Case("packed", 1, 64, (0, 5, 5, 37, 64))
WIDE = (
    Case("T=70, wide", 1, 70, wide=True),
    Case("packed, wide", 1, 90, (0, 17, 17, 90), wide=True),
)
LONG = (Case("T=333", 2, 333), Case("packed long", 1, 600, (0, 1, 1, 257, 600)))
DECAYS = ("none", "weak", "strong", "-20", "-100", "-inf")


@dataclass(frozen=True)
class Comparison:
    """One tensor of one case: its relative RMS error and the limit it has to keep."""

    case: str
    tensor: str
    error: float
    limit: float

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
            verdict = "" if c.passed else "  FAILED"
            print(f"{c.case:<28}{c.tensor:<18}{c.error:>10.1e}{c.limit:>10.0e}{verdict}")
    failed = sum(not c.passed for c in comparisons)
    where = "on this GPU" if _has_gpu() else "in Triton's interpreter (no GPU here)"
    summary = f"{module.SPEC['operator']}: {len(comparisons) - failed} of {len(comparisons)} agree"
    # With --json, stdout is for programs alone.
    print(f"{summary} with float64, {where}.", file=sys.stderr if as_json else sys.stdout)
    return 1 if failed else 0


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


def verify_cases(spec: dict[str, Any], on_gpu: bool) -> list[Case]:
    """Lengths below and above a chunk, packs with an empty sequence, decays of every strength.

    The interpreter is slow: there, short sequences, narrow tensors that the token-serial kernels
    take but for two cases, and two kinds of decay.
    """
    cases = [*LENGTHS, PACKED, *(LONG if on_gpu else WIDE)]
    if any(_decays(tensor) for tensor in spec["arguments"].values()):
        length = 150 if on_gpu else 17
        kinds = DECAYS if on_gpu else ("strong", "-inf")
        cases += [Case(f"decay {kind}", 2, length, decay=kind) for kind in kinds]
    return cases


def _decays(tensor: dict[str, Any]) -> bool:
    """Whether an argument is a log-decay: an input that may be -inf."""
    bounds = tensor["range"]
    return tensor["kind"] == "input" and bounds is not None and bounds[0] == float("-inf")


def decayed(values: torch.Tensor, kind: str) -> torch.Tensor:
    """Log-decays [B, T, ...] of one kind, made from usual ones; never above them or 0."""
    if kind in ("usual", "none", "weak", "strong"):
        return values * {"usual": 1.0, "none": 0.0, "weak": 0.01, "strong": 8.0}[kind]
    values = values.clone()
    values[:, 2::5] = float(kind)
    return values


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
    batch, length, borders = case.batch, case.length, case.borders
    label = f"{dtype} {case.name}"
    io = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    generator = torch.Generator().manual_seed(20)
    spec = module.SPEC
    sizes = verify_sizes(spec, on_gpu=device == "cuda", wide=case.wide)
    sequences = batch if borders is None else len(borders) - 1
    tensors = {}
    for name, tensor in spec["arguments"].items():
        lead = [batch, length] if tensor["kind"] == "input" else []
        shape = lead + [sizes[axis] for axis in tensor["axes"]]
        value = random_values(shape, tensor["range"], len(tensor["axes"]) > 1, generator)
        if _decays(tensor):
            value = decayed(value, case.decay)
        declared = tensor["kind"] == "parameter" or tensor["dtype"] == "float32"
        tensors[name] = value.to(torch.float32 if declared else io).to(device)
    states = []
    for name, axes in spec["states"].items():
        state = 0.1 * torch.randn(sequences, *(sizes[a] for a in axes), generator=generator)
        states.append((torch.full_like(state, 3) if name == "position" else state).to(device))
    packing = None if borders is None else torch.tensor(borders, device=device, dtype=torch.int32)
    operator = getattr(module, spec["operator"])
    reference = getattr(module, f"{spec['operator']}_reference")
    found, leaves = _run(operator, spec, tensors, states, packing, None)
    exact, exact_leaves = _run(reference, spec, tensors, states, packing, torch.float64)
    labels = [*spec["outputs"], *(f"{name} (final)" for name in spec["states"])]
    # Both get the same gradients of results, rounded once, as they get the same inputs.
    weights = [torch.randn(f.shape, generator=generator).to(device, f.dtype) for f in found]
    gradients = _gradients(found, leaves, weights)
    exact_gradients = _gradients(exact, exact_leaves, weights)
    limits = LIMITS[dtype]
    rows = [
        Comparison(label, name, relative_error(a, b), limits["result"])
        for name, a, b in zip(labels, found, exact, strict=True)
    ]
    names = [*tensors, *(f"initial {name}" for name in spec["states"])]
    key = max((len(t["axes"]) for t in spec["arguments"].values()), default=0)
    for name, a, b in zip(names, gradients, exact_gradients, strict=True):
        gate = name in tensors and len(spec["arguments"][name]["axes"]) < key
        limit = limits["gate" if gate else "gradient"]
        rows.append(Comparison(label, f"d {name}", relative_error(a, b), limit))
    return rows


def verify_sizes(spec: dict[str, Any], on_gpu: bool, wide: bool = False) -> dict[str, int]:
    """Sizes to verify at: the defaults on a GPU, small odd ones in the interpreter.

    ``wide`` ones there are the least with which the chunkwise kernels serve.
    """
    sizes: dict[str, int] = {}
    # Sizes that a formula ties together stay as the spec has them.
    tied = " ".join(
        f"{name} {axis['derived']}" for name, axis in spec["axes"].items() if axis["derived"]
    )
    for number, (name, axis) in enumerate(spec["axes"].items()):
        if axis["fixed"] or name in re.findall(r"[A-Za-z_]\w*", tied):
            sizes[name] = axis["size"]
        elif axis["twin"] is not None:
            sizes[name] = sizes[axis["twin"]]
        elif axis["parent"] is not None:
            sizes[name] = 2 * sizes.get(axis["parent"], 2)
        elif on_gpu and axis["size"] > 16:
            sizes[name] = axis["size"]
        else:
            small = (33, 35, 34) if wide else (5, 7, 6)
            sizes[name] = 2 if axis["size"] <= 16 else small[number % 3]
    return sizes


def random_values(
    shape: list[int], bounds: list[float] | None, vector: bool, generator: torch.Generator
) -> torch.Tensor:
    """Values inside the declared range; without one, vectors of length about one.

    Longer keys would let an erasing state grow beyond all dtypes.
    """
    import torch

    scale = shape[-1] ** -0.5 if vector and bounds is None else 0.5
    values = scale * torch.randn(shape, generator=generator)
    if bounds is None:
        return values
    low, high = bounds
    if low == float("-inf") and high == float("inf"):
        return values
    if low == float("-inf"):
        return high - torch.nn.functional.softplus(values * 2)
    if high == float("inf"):
        return low + torch.nn.functional.softplus(values * 2)
    return low + (high - low) * torch.sigmoid(values * 2)


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

    loss = sum((r * w.to(r.dtype)).sum() for r, w in zip(results, weights, strict=True))
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
    difference = (found.detach().double() - exact).square().mean().sqrt()
    size = exact.square().mean().sqrt()
    return float(difference / size) if float(size) > 1e-6 else float(difference)
