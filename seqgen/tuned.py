"""From the tuning store to the CONFIGS of a generated file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from seqgen.errors import SeqgenError
from seqgen.ir.printer import spec_hash
from seqgen.ir.recurrence import Recurrence
from seqgen.plan.knobs import KernelSpace
from seqgen.plan.module import Entry
from seqgen.plan.schedule import KernelPart, SchedulePlan
from seqgen.render.environment import render

if TYPE_CHECKING:
    from seqgen.build import Tuned
    from seqgen.gpu.table import Gpu
    from seqgen.store.keys import DeviceKey, KernelKey, ProblemKey, ToolchainKey

CODEGEN = 1
"""Raised when generated code changes so that old measurements no longer mean anything."""


def tuned_configs(gpu: Gpu, location: str | None = None, frozen: bool = False) -> Tuned:
    """What ``compile_spec`` asks for configurations: the best that the store knows for ``gpu``.

    Args:
        gpu: the target.
        location: path or URL of the store; None for the default one.
        frozen: raise where nothing was tuned, instead of using the default.
    """

    def find(recurrence: Recurrence, schedule: SchedulePlan) -> Mapping[str, Sequence[Entry]]:
        from seqgen.store.store import TuningStore

        found: dict[str, list[Entry]] = {}
        with TuningStore.open(location) as store:
            for space in schedule.spaces:
                key = kernel_key(recurrence, schedule, space)

                def legal(
                    _: ProblemKey, config: Mapping[str, object], s: KernelSpace = space
                ) -> bool:
                    return s.contains(config)  # type: ignore[arg-type]

                choices = store.choices(key, device_key(gpu), toolchain_key(), accept=legal)
                found[space.kernel] = [
                    {
                        **choice.problem.clear(),
                        "config": dict(choice.config),
                        "origin": choice.origin,
                    }
                    for choice in choices
                ]
        missing = [space.kernel for space in schedule.spaces if not found[space.kernel]]
        if frozen and missing:
            raise SeqgenError(
                f"'{recurrence.name}' has no tuned configuration on {gpu.name} for "
                f"{', '.join(missing)}. Run 'seqgen tune', or build without --frozen."
            )
        return found

    return find


def kernel_key(recurrence: Recurrence, schedule: SchedulePlan, space: KernelSpace) -> KernelKey:
    """Which code is measured: the operator and the kernel's rendered text, knobs symbolic."""
    from seqgen.store.keys import KernelKey, source_hash

    parts: tuple[KernelPart, ...] = schedule.kernels
    own = [part for part in parts if part.name == space.kernel] or list(parts)
    text = "\n".join(render(part.template, part.plan) for part in own)
    return KernelKey(
        recurrence.name, space.kernel, space.role, spec_hash(recurrence), source_hash(text)
    )


def device_key(gpu: Gpu) -> DeviceKey:
    """The silicon, by the table's numbers."""
    from seqgen.store.keys import DeviceKey

    return DeviceKey(**gpu.device_key())  # type: ignore[arg-type]


def toolchain_key() -> ToolchainKey:
    """The compilers installed here."""
    from importlib.metadata import PackageNotFoundError, version

    from seqgen.store.keys import ToolchainKey

    try:
        triton = version("triton")
    except PackageNotFoundError:
        triton = "none"
    return ToolchainKey(triton=triton, ptxas="bundled", codegen=CODEGEN)
