"""What the kernels of a built file need of a GPU that need not be there.

The file's own launchers run on ``meta`` tensors while launches are intercepted, so what is
cross-compiled is exactly what the JIT would compile on that GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

from seqgen.errors import SeqgenError
from seqgen.ir.recurrence import Recurrence

if TYPE_CHECKING:
    from seqgen.gpu.launches import Launch
    from seqgen.gpu.pool import CompileFailure
    from seqgen.gpu.resources import KernelResources
    from seqgen.gpu.table import Gpu

BATCH, LENGTH = 2, 4096
SPILLS = (
    "spill B: bytes a thread stores/loads where registers do not suffice. Results are the same, "
    "time is lost; 'seqgen tune' searches configurations that are faster."
)


@dataclass(frozen=True)
class KernelReport:
    """One kernel: resources or why there are none, and where its configuration comes from."""

    kernel: str
    config: dict[str, Any]
    """Knobs as the launcher takes them: no block is wider than the sizes need."""
    origin: str
    resources: KernelResources | None
    problem: str
    """Why it cannot launch or did not compile; empty if it can."""
    case: dict[str, Any] = field(default_factory=dict)
    """What tells it from other kernels of the same name."""

    def row(self) -> dict[str, Any]:
        """The report as plain values, for a program to read."""
        r = self.resources
        found = None
        if r is not None:
            found = {
                "registers": r.registers,
                "spill_store_bytes": r.spill_store_bytes,
                "spill_load_bytes": r.spill_load_bytes,
                "shared_bytes": r.shared_bytes,
            }
        return {
            "kernel": self.kernel,
            "resources": found,
            "origin": self.origin,
            "config": self.config,
            "case": self.case,
            "problem": self.problem,
        }


def report_table(reports: Sequence[KernelReport]) -> list[str]:
    """The lines of a table: one per kernel, one more where it cannot run; then what spills mean."""
    width = max([len("kernel"), *(len(report.kernel) for report in reports)])
    lines = [f"{'kernel':<{width}} {'regs':>5} {'spill B':>11} {'smem KB':>8}  {'config':<9} knobs"]
    for report in reports:
        r, knobs = report.resources, " ".join(f"{k}={v}" for k, v in report.config.items() if v)
        if report.case:
            knobs += f" ({' '.join(f'{k}={v}' for k, v in report.case.items())})"
        if r is None:
            lines.append(f"{report.kernel:<{width}} failed: {report.problem}")
            continue
        spills = f"{r.spill_store_bytes}/{r.spill_load_bytes}"
        shared = f"{r.shared_bytes / 1024:.0f}"
        lines.append(
            f"{report.kernel:<{width}} {r.registers:>5} {spills:>11} {shared:>8}  "
            f"{report.origin:<9} {knobs}"
        )
        if report.problem:
            lines.append(f"{'':<{width}} cannot launch: {report.problem}")
    found = [report.resources for report in reports]
    if any(r and (r.spill_store_bytes or r.spill_load_bytes) for r in found):
        lines.append(SPILLS)
    return lines


def report_kernels(
    module: ModuleType,
    recurrence: Recurrence,
    gpu: Gpu,
    dtype: str,
    progress: Callable[[int, int], None],
    shape: Mapping[str, int] | None = None,
) -> list[KernelReport]:
    """Cross-compile forward and backward of ``module`` for ``gpu``.

    Args:
        module: a built operator, imported.
        recurrence: what it was built from, for the shapes.
        gpu: the target.
        dtype: "bf16", "fp16" or "fp32".
        progress: called with (kernels done, kernels in all).
        shape: sizes of B, T and axes; those not given are the defaults.

    Raises:
        UsageError: the shape does not fit the operator.
    """
    from seqgen.gpu.launches import capture_launches
    from seqgen.gpu.pool import compile_launches
    from seqgen.gpu.resources import KernelResources, launchable

    used: dict[str, tuple[str, Any]] = {}
    choose = module._config

    def recording(kernel: str, key: Any) -> Any:
        used[kernel] = (kernel, key)
        return choose(kernel, key)

    module._config = recording  # type: ignore[attr-defined]
    try:
        launches = capture_launches(lambda: run_on_meta(module, recurrence, dtype, shape))
    finally:
        module._config = choose  # type: ignore[attr-defined]
    # A kernel that is launched for two kinds of operands is compiled for both.
    unique = list({(x.name, tuple(x.arguments.items())): x for x in launches}.values())
    done = 0

    def count(_: KernelResources | CompileFailure) -> None:
        nonlocal done
        done += 1
        progress(done, len(unique))

    cases = _cases(unique)
    reports = []
    for launch, result in zip(unique, compile_launches(unique, gpu, on_result=count), strict=True):
        name = launch.name.removesuffix("_kernel")
        kernel, key = used.get(name, (name, None))
        config = choose(kernel, key) if key is not None else {}
        origin = next(
            (e["origin"] for e in module.CONFIGS.get(kernel, ()) if e["config"] is config), ""
        )
        taken = {**launch.arguments, **launch.options}
        config = {knob: taken.get(knob, value) for knob, value in config.items()}
        case = {argument: launch.arguments[argument] for argument in cases[launch.name]}
        if isinstance(result, KernelResources):
            problem = launchable(result, gpu) or ""
            reports.append(KernelReport(name, config, origin, result, problem, case))
        else:
            reports.append(KernelReport(name, config, origin, None, result.reason, case))
    return reports


def _cases(launches: Sequence[Launch]) -> dict[str, list[str]]:
    """For each kernel the constants that differ from one launch of it to another."""
    values: dict[str, dict[str, set[str]]] = {}
    for launch in launches:
        own = values.setdefault(launch.name, {})
        for argument, value in launch.arguments.items():
            if argument.isupper():  # as constants of kernels are
                own.setdefault(argument, set()).add(repr(value))
    return {
        name: [argument for argument, found in own.items() if len(found) > 1]
        for name, own in values.items()
    }


def run_on_meta(
    module: ModuleType,
    recurrence: Recurrence,
    dtype: str,
    shape: Mapping[str, int] | None = None,
) -> None:
    """Run forward and backward on tensors without memory.

    Args:
        module: a built operator, imported.
        recurrence: what it was built from.
        dtype: "bf16", "fp16" or "fp32".
        shape: sizes of B, T and axes; those not given are the defaults.

    Raises:
        UsageError: the shape does not fit the operator.
    """
    import torch

    from seqgen.tune.workload import workload_of

    io = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[dtype]
    sizes = workload_of(recurrence, {"B": BATCH, "T": LENGTH, **(shape or {})}, dtype).sizes

    def tensor(axes: tuple[str, ...], lead: tuple[int, ...], kind: torch.dtype) -> Any:
        shape = (*lead, *(sizes[axis] for axis in axes))
        return torch.empty(shape, dtype=kind, device="meta")

    arguments = [
        tensor(
            t.axes,
            (sizes["B"], sizes["T"]) if t.kind == "input" else (),
            torch.float32 if t.dtype == "float32" or t.kind == "parameter" else io,
        )
        for t in recurrence.argument_order()
    ]
    states = [tensor(s.axes, (sizes["B"],), torch.float32) for s in recurrence.states]
    kept: list[torch.Tensor] = []
    try:
        results = module._run_forward(*arguments, *states, None, True, kept)
    except ValueError as error:
        raise SeqgenError(f"The kernels refuse these sizes. {error}") from error
    if len(results) != len(recurrence.outputs) + len(recurrence.states):
        raise SeqgenError(f"'{recurrence.name}' gave {len(results)} results.")
    module._run_backward(*arguments, *states, None, *results, kept)
