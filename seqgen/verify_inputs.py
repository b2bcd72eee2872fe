"""What ``seqgen verify`` calls an operator with: sizes, values and initial states."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

BEFORE = 8
"""Tokens that the initial states have behind them."""


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
    most: int | None = None
    """On a GPU, no size above this."""

    @property
    def sequences(self) -> int:
        return self.batch if self.borders is None else len(self.borders) - 1


LENGTHS = (Case("T=1", 2, 1), Case("T=17", 2, 17), Case("T=70", 2, 70))
PACKED = Case("packed", 1, 64, (0, 5, 5, 37, 64))
WIDE = (
    Case("T=70, wide", 1, 70, wide=True),
    Case("packed, wide", 1, 90, (0, 17, 17, 90), wide=True),
)
LONG = (Case("T=333", 2, 333), Case("packed long", 1, 600, (0, 1, 1, 257, 600)))
NARROW = Case("64 channels", 2, 150, most=64)
DECAYS = ("none", "weak", "strong", "-20", "-100", "-inf")


def verify_cases(spec: dict[str, Any], on_gpu: bool) -> list[Case]:
    """Lengths below and above a chunk, packs with an empty sequence, decays of every strength.

    On a GPU also tensors of 64 channels, where the spec has more: other tiles, other machine code.
    The interpreter is slow: there, short sequences, narrow tensors that the token-serial kernels
    take but for two cases, and two kinds of decay.
    """
    cases = [*LENGTHS, PACKED, *(LONG if on_gpu else WIDE)]
    if on_gpu and verify_sizes(spec, on_gpu, NARROW) != verify_sizes(spec, on_gpu, PACKED):
        cases.append(NARROW)
    if any(decays(tensor) for tensor in spec["arguments"].values()):
        length = 150 if on_gpu else 17
        kinds = DECAYS if on_gpu else ("strong", "-inf")
        cases += [Case(f"decay {kind}", 2, length, decay=kind) for kind in kinds]
    return cases


def decays(tensor: dict[str, Any]) -> bool:
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


def verify_sizes(spec: dict[str, Any], on_gpu: bool, case: Case) -> dict[str, int]:
    """Sizes to verify at: the defaults on a GPU, small odd ones in the interpreter."""
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
            sizes[name] = min(axis["size"], case.most or axis["size"])
        else:
            small = (17, 19, 18) if case.wide else (5, 7, 6)
            sizes[name] = 2 if axis["size"] <= 16 else small[number % 3]
    return sizes


def make_arguments(
    spec: dict[str, Any],
    sizes: dict[str, int],
    case: Case,
    io: torch.dtype,
    generator: torch.Generator,
) -> dict[str, torch.Tensor]:
    """All arguments by name, on the CPU: inputs in ``io``, gates and parameters in float32."""
    import torch

    arguments = {}
    for name, tensor in spec["arguments"].items():
        lead = [case.batch, case.length] if tensor["kind"] == "input" else []
        shape = lead + [sizes[axis] for axis in tensor["axes"]]
        value = random_values(shape, tensor["range"], len(tensor["axes"]) > 1, generator)
        if decays(tensor):
            value = decayed(value, case.decay)
        declared = tensor["kind"] == "parameter" or tensor["dtype"] == "float32"
        arguments[name] = value.to(torch.float32 if declared else io)
    return arguments


def reached_states(
    module: ModuleType,
    sizes: dict[str, int],
    case: Case,
    arguments: dict[str, torch.Tensor],
    generator: torch.Generator,
) -> list[torch.Tensor]:
    """Initial states such as the operator itself leaves: sums of squares, say, are not negative.

    Args:
        module: the generated file.
        sizes: of the axes.
        case: whose sequences they are for.
        arguments: of the case, for the parameters.
        generator: for the tokens that the states have behind them.

    Returns:
        The states in float32, on the CPU, for each sequence after ``BEFORE`` tokens.
    """
    import torch

    spec = module.SPEC
    before = make_arguments(spec, sizes, Case("", case.sequences, BEFORE), torch.float32, generator)
    known = spec["arguments"]
    given = {
        name: (value if known[name]["kind"] == "input" else arguments[name]).double()
        for name, value in before.items()
    }
    reference = getattr(module, f"{spec['operator']}_reference")
    *_, final = reference(
        *(value for name, value in given.items() if known[name]["required"]),
        output_final_state=True,
        **{name: value for name, value in given.items() if not known[name]["required"]},
    )
    finals = final if isinstance(final, tuple) else (final,)
    return [state.to(torch.float32) for state in finals]


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
