"""From the tuning store to the CONFIGS of a generated file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from seqgen.errors import SeqgenError
from seqgen.plan.knobs import Config, KernelSpace
from seqgen.plan.module import Entry
from seqgen.plan.schedule import SchedulePlan
from seqgen.render.module import GeneratedModule

if TYPE_CHECKING:
    from seqgen.build import Tuned
    from seqgen.gpu.table import Gpu
    from seqgen.store.keys import KernelKey, ProblemKey
    from seqgen.store.store import TuningStore


def tuned_configs(gpu: Gpu, location: str | None = None, frozen: bool = False) -> Tuned:
    """What ``compile_spec`` asks for configurations: the best that the store knows for ``gpu``.

    Args:
        gpu: the target.
        location: path or URL of the store; None for the default one.
        frozen: raise where nothing was tuned, instead of using the default.
    """

    def find(module: GeneratedModule, schedule: SchedulePlan) -> Mapping[str, Sequence[Entry]]:
        from seqgen.store.store import TuningStore
        from seqgen.tune.keys import kernel_key

        found = {}
        with TuningStore.open(location) as store:
            for space in schedule.spaces:
                key = kernel_key(
                    module.name, space.kernel, space.role, module.spec_hash, module.source
                )
                found[space.kernel] = _entries(store, key, space, gpu)
        # The universal kernels stand by for sizes that a faster schedule does not take.
        own = [kernel for kernel in found if kernel.startswith(schedule.name)]
        missing = [kernel for kernel in own if not found[kernel]]
        if frozen and missing:
            raise SeqgenError(
                f"'{module.name}' has no tuned configuration on {gpu.name} for "
                f"{', '.join(missing)}. Run 'seqgen tune', or build without --frozen."
            )
        return found

    return find


def _entries(
    store: TuningStore, key: KernelKey, space: KernelSpace, gpu: Gpu
) -> list[dict[str, object]]:
    """Entries of CONFIGS for one kernel: this toolchain's, else those of another one."""
    from seqgen.tune.keys import device_key, toolchain_key

    def legal(_: ProblemKey, config: Config) -> bool:
        return space.contains(config)

    for toolchain in store.history(key).toolchains(toolchain_key()):
        choices = store.choices(key, device_key(gpu), toolchain, accept=legal)
        if choices:
            return [
                {**choice.problem.clear(), "config": dict(choice.config), "origin": choice.origin}
                for choice in choices
            ]
    return []
