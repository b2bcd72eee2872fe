"""Generated operators for the tests, and small inputs for them, on any device."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
SPECS = {
    **{path.stem: path for path in sorted((ROOT / "examples").glob("*.yaml"))},
    **{path.stem: path for path in sorted((Path(__file__).parent / "specs").glob("*.yaml"))},
}
# Contrasts: a gate per head; options, groups and parameters; an erase; nonlinear in the state;
# several states, a delayed input, the position and two outputs; the same in reverse.
NAMES = (
    "simple_gla",
    "mamba2_ssd",
    "gated_delta_rule",
    "saturating_memory",
    "two_memories",
    "two_memories_backward",
)
SIZES = {"H": 2, "HV": 4, "G": 1, "K": 5, "V": 3, "P": 3, "N": 5, "D": 4}


@dataclass(frozen=True)
class Case:
    """One call: arguments by name in the operator's order, initial states, packing."""

    module: object
    arguments: dict
    states: tuple
    cu_seqlens: object = None

    @property
    def name(self):
        return self.module.SPEC["operator"]

    @property
    def required(self):
        known = self.module.SPEC["arguments"]
        return [value for name, value in self.arguments.items() if known[name]["required"]]

    @property
    def optional(self):
        known = self.module.SPEC["arguments"]
        return {name: v for name, v in self.arguments.items() if not known[name]["required"]}

    @property
    def tensors(self):
        """All tensors with a gradient: arguments and states that are not None."""
        tensors = [*self.arguments.values(), *self.states]
        return [t for t in tensors if t is not None and t.requires_grad]

    @property
    def initial_state(self):
        if all(state is None for state in self.states):
            return None
        return self.states[0] if len(self.states) == 1 else self.states

    def map(self, change):
        """The same case with ``change(tensor)`` for every argument and state."""
        both = lambda t: None if t is None else change(t)
        return replace(
            self,
            arguments={name: both(t) for name, t in self.arguments.items()},
            states=tuple(both(t) for t in self.states),
        )

    def to(self, dtype):
        return self.map(lambda t: t.detach().to(dtype).requires_grad_(t.requires_grad))

    def cpu(self):
        packing = self.cu_seqlens
        case = self.map(lambda t: t.detach().cpu().requires_grad_(t.requires_grad))
        return replace(case, cu_seqlens=None if packing is None else packing.cpu())

    def __call__(self, function=None, want_final=True):
        """Outputs and final states in one list."""
        *outputs, final = (function or getattr(self.module, self.name))(
            *self.required,
            initial_state=self.initial_state,
            output_final_state=want_final,
            cu_seqlens=self.cu_seqlens,
            **self.optional,
        )
        finals = final if len(self.states) > 1 else (final,)
        return [*outputs, *(finals if want_final else ())]

    def reference(self):
        return self(getattr(self.module, f"{self.name}_reference"))

    def operands(self, *rest):
        """Arguments of the registered operators, without gradients."""
        values = (*self.arguments.values(), *self.states, self.cu_seqlens, *rest)
        return tuple(v.detach() if isinstance(v, torch.Tensor) else v for v in values)


def make(
    module,
    batch=2,
    length=7,
    borders=None,
    dtype=torch.float32,
    options=True,
    states=True,
    device="cpu",
    sizes=None,
    grad=True,
    seed=1,
):
    """A case with values inside the declared ranges; gates and parameters in float32."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {**SIZES, **(sizes or {})}
    spec = module.SPEC
    axis = lambda a: sizes[a] if a in sizes else spec["axes"][a]["size"]

    def random(shape):
        return torch.randn(shape, generator=generator) * 0.5

    arguments = {}
    for name, tensor in spec["arguments"].items():
        is_input = tensor["kind"] == "input"
        shape = [*((batch, length) if is_input else ()), *map(axis, tensor["axes"])]
        value = random(shape)
        if tensor["range"] is not None:
            value = -value.abs()
        declared = not is_input or tensor["dtype"] == "float32"
        value = value.to(torch.float32 if declared and dtype != torch.float64 else dtype)
        present = tensor["required"] or options
        arguments[name] = value.to(device).requires_grad_(grad) if present else None
    count = batch if borders is None else len(borders) - 1
    given = []
    for name, axes in spec["states"].items():
        shape = [count, *map(axis, axes)]
        value = torch.full(shape, 3.0) if name == "position" else random(shape)
        value = value.to(torch.promote_types(dtype, torch.float32))
        given.append(value.to(device).requires_grad_(grad) if states else None)
    packing = None
    if borders is not None:
        packing = torch.tensor(borders, dtype=torch.int32, device=device)
    return Case(module, arguments, tuple(given), packing)


def gradients(results, tensors, seed=2):
    """Gradients of a fixed random combination of ``results``; zeros where there is none."""
    generator = torch.Generator().manual_seed(seed)
    loss = 0
    for result in results:
        weight = torch.randn(result.shape, generator=generator).to(result.device)
        loss = loss + (result * weight.to(torch.promote_types(result.dtype, torch.float32))).sum()
    found = torch.autograd.grad(loss, tensors, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]


def assert_equal(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == other.dtype and torch.equal(one, other)


def assert_close(found, wanted, limit=1e-5):
    """RMS of the differences against the RMS of what is wanted; absolute where that is 0."""
    for index, (one, other) in enumerate(zip(found, wanted, strict=True)):
        assert one.shape == other.shape, index
        if other.numel():
            size = other.detach().double().square().mean().sqrt()
            error = (one.detach().double() - other.detach().double()).square().mean().sqrt()
            assert float(error / size if size > 1e-6 else error) <= limit, index
