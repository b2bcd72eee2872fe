"""A generated module under the tuner: set a configuration, launch one kernel again, time it.

Runs in the worker process. One forward and backward of the operator is run with every
``launch_<kernel>`` wrapped to keep its arguments; from then on a kernel can be launched alone, with
any configuration, on the tensors that it would have in the operator.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from seqgen.tune.benchmark import Call
from seqgen.tune.inputs import Inputs
from seqgen.tune.keys import OPERATOR
from seqgen.tune.workload import Workload

Config = Mapping[str, Any]


@dataclass
class Recording:
    """What the kernels of a module did in one forward and backward.

    ``calls`` repeat the launches of a kernel; ``keys`` are what it asked ``_config`` with (dtype,
    sizes, load, length).
    """

    calls: dict[str, list[Call]] = field(default_factory=dict)
    keys: dict[str, Any] = field(default_factory=dict)


class OperatorRun:
    """Forward and backward of an operator as one call without arguments, as often as wanted."""

    def __init__(
        self, function: Callable[..., Any], workload: Workload, inputs: Inputs, double: bool = False
    ) -> None:
        """Copy the inputs.

        Args:
            function: the operator or its reference.
            workload: which argument is positional.
            inputs: the arguments; final states are asked for if an initial state is given.
            double: convert everything to float64 first.
        """
        self._function = function
        self._leaves = {
            name: (tensor.double() if double else tensor).detach().clone().requires_grad_()
            for name, tensor in inputs.leaves.items()
        }
        leaves, operands = self._leaves, workload.operands
        self._positional = [leaves[o.name] for o in operands if o.required]
        self._keywords: dict[str, Any] = {
            o.name: leaves[o.name] for o in operands if not o.required
        }
        if inputs.states is not None:
            states = tuple(leaves[f"initial_state_{i}"] for i in range(len(inputs.states)))
            self._keywords["initial_state"] = states if len(states) > 1 else states[0]
            self._keywords["output_final_state"] = True
        if inputs.cu_seqlens is not None:
            self._keywords["cu_seqlens"] = inputs.cu_seqlens
        self._cotangents: list[Tensor] | None = None

    def __call__(self) -> dict[str, Tensor]:
        """Outputs, final states and all gradients by name."""
        with torch.enable_grad():
            *outputs, final = self._function(*self._positional, **self._keywords)
            finals = final if isinstance(final, tuple) else () if final is None else (final,)
            results = {f"output_{i}": o for i, o in enumerate(outputs)}
            results |= {f"final_state_{i}": s for i, s in enumerate(finals)}
            if self._cotangents is None:
                self._cotangents = _cotangents(results.values())
            gradients = torch.autograd.grad(
                list(results.values()),
                list(self._leaves.values()),
                self._cotangents,
                allow_unused=True,
            )
        for (name, leaf), gradient in zip(self._leaves.items(), gradients, strict=True):
            results[f"d_{name}"] = torch.zeros_like(leaf) if gradient is None else gradient
        return {name: value.detach() for name, value in results.items()}


def _cotangents(results: Iterable[Tensor]) -> list[Tensor]:
    # Drawn on the host, so that operator and reference get the same numbers.
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(r.shape, generator=generator).to(r.device, r.dtype) for r in results]


class Harness:
    """A generated module, its configurations, and the launches that were recorded."""

    def __init__(self, module: Any, workload: Workload) -> None:
        self.module = module
        self.workload = workload
        self.operator: Callable[..., Any] = getattr(module, workload.op)
        self.reference: Callable[..., Any] = getattr(module, f"{workload.op}_reference")

    @property
    def kernels(self) -> list[str]:
        """The kernels that have a launcher and configurations."""
        return [k for k in self.module.CONFIGS if hasattr(self.module, f"launch_{k}")]

    def use(self, kernel: str, config: Config) -> None:
        """Let ``kernel`` run with ``config`` from now on, whatever the problem."""
        self.module.CONFIGS[kernel] = [{"config": dict(config), "origin": "default"}]
        self.module._config.cache_clear()

    @contextmanager
    def using(self, kernel: str, config: Config) -> Iterator[None]:
        """``use`` for a while."""
        before = self.module.CONFIGS[kernel]
        self.use(kernel, config)
        try:
            yield
        finally:
            self.module.CONFIGS[kernel] = before
            self.module._config.cache_clear()

    def default(self, kernel: str) -> dict[str, Any]:
        """The configuration that fits every problem."""
        return dict(self.module.CONFIGS[kernel][-1]["config"])

    def record(self, inputs: Inputs) -> Recording:
        """Run the operator forward and backward once, and note every launch."""
        recording = Recording()
        patched = {f"launch_{k}": getattr(self.module, f"launch_{k}") for k in self.kernels}
        select = self.module._config

        def launcher(kernel: str, launch: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(launch)
            def noted(*args: Any, **kwargs: Any) -> Any:
                call = functools.partial(launch, *args, **kwargs)
                recording.calls.setdefault(kernel, []).append(call)
                return launch(*args, **kwargs)

            return noted

        def noted_select(kernel: str, key: Any) -> Any:
            recording.keys.setdefault(kernel, key)
            return select(kernel, key)

        # Recorded launches look ``_config`` up again when they are repeated, so the wrapper only
        # has to be there now; ``_config.cache_clear`` stays reachable through it.
        noted_select.cache_clear = select.cache_clear  # type: ignore[attr-defined]
        try:
            for name, launch in patched.items():
                setattr(self.module, name, launcher(name.removeprefix("launch_"), launch))
            self.module._config = noted_select
            OperatorRun(self.operator, self.workload, inputs)()
        finally:
            self.module._config = select
            for name, launch in patched.items():
                setattr(self.module, name, launch)
        if OPERATOR in self.module.CONFIGS:
            recording.calls[OPERATOR] = [OperatorRun(self.operator, self.workload, inputs)]
        return recording


def repeat(calls: Sequence[Call]) -> Call:
    """All launches of a kernel as one call that returns their results."""

    def run() -> list[object]:
        with torch.no_grad():
            return [call() for call in calls]

    return run
