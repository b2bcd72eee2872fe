"""Tuning of a whole generated file: which kernels, in which order, with how much time."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from seqgen.gpu.table import Gpu
from seqgen.plan.knobs import KernelSpace
from seqgen.store.keys import PolicyKey, ProblemKey
from seqgen.store.lookup import Query
from seqgen.store.store import TuningStore
from seqgen.tune.benchmark import PROTOCOL
from seqgen.tune.kernel_tuner import KernelResult, KernelTuner, Options
from seqgen.tune.keys import OPERATOR, device_key, kernel_key, toolchain_key
from seqgen.tune.progress import Progress, clock_text, microseconds
from seqgen.tune.remote import RemoteBench
from seqgen.tune.results import Bench, KernelTask
from seqgen.tune.workload import Workload

SpaceOf = Callable[[str, KernelTask], KernelSpace | None]
"""The knobs of a kernel at given tile sizes and dtype; None if it has none to tune."""

OpenBench = Callable[[Path, Workload], AbstractContextManager[Bench]]


def policy_key() -> PolicyKey:
    """How this tuner measures."""
    return PolicyKey(PROTOCOL, "cold", "eager")


def tune_operator(
    module: Path,
    workload: Workload,
    spec_hash: str,
    gpu: Gpu,
    space_of: SpaceOf,
    store: TuningStore,
    options: Options,
    *,
    progress: Progress | None = None,
    open_bench: OpenBench = RemoteBench,
) -> list[KernelResult]:
    """Tune the kernels of a generated file at one size.

    Knobs that all kernels share come first; then the kernels, each with the winners before it in
    place. Half of the budget is dealt out evenly, half by the time of each kernel; what one
    leaves over goes to those after it.

    Args:
        module: the generated file, with the default configurations in it.
        workload: operator, sizes and dtype.
        spec_hash: of the recurrence.
        gpu: the GPU of this machine (``seqgen.gpu.detect``).
        space_of: the domain of each kernel.
        store: where facts go; it must persist.
        options: budget and the like.
        progress: where to tell about it; stderr by default.
        open_bench: runs kernels; a worker process by default.

    Returns:
        A result for each kernel, in the order in which they were tuned.

    Raises:
        SeqgenError: the operator does not run at all.
    """
    end = time.monotonic() + options.budget
    source = module.read_text()
    session = uuid.uuid4().hex[:16]
    progress = progress or Progress()
    results = []
    with open_bench(module, workload) as bench:
        tasks = bench.tasks()
        weights = _weights(bench, [k for k, task in tasks.items() if space_of(k, task) is not None])
        while weights:
            kernel = min(weights, key=lambda k: (k != OPERATOR, -weights[k], k))
            share = weights[kernel] / sum(weights.values())
            del weights[kernel]
            # Asked again: a shared knob that was settled may change what a kernel is called with.
            task = bench.tasks()[kernel]
            space = space_of(kernel, task)
            if space is None:
                continue
            query = Query(
                kernel_key(workload.op, kernel, space.role, spec_hash, source),
                ProblemKey(task.dtype, task.sizes, task.load, task.length),
                device_key(gpu),
                toolchain_key(),
                policy_key(),
            )
            result = KernelTuner(
                space,
                query,
                workload.sizes,
                bench,
                store,
                options,
                session=session,
                seconds=max(share * (end - time.monotonic()), 0.0),
                progress=progress,
            ).run()
            progress.done(summary(result))
            results.append(result)
            if result.winner is not None:
                bench.use(kernel, result.winner.candidate.config)
    return results


def _weights(bench: Bench, kernels: list[str]) -> dict[str, float]:
    """The share of the time that each kernel deserves; they sum to one."""
    tasks = bench.tasks()
    times = {}
    for kernel in kernels:
        timing = bench.time(kernel, tasks[kernel].default, None).timing
        times[kernel] = 0.0 if timing is None else timing.median_us
    total = sum(times.values()) or 1.0
    return {kernel: 0.5 / len(kernels) + 0.5 * us / total for kernel, us in times.items()}


def summary(result: KernelResult) -> str:
    """One line about a tuned kernel."""
    kernel = result.query.kernel
    counts = f"{result.tried} tried, {result.rejected} rejected, {result.wrong} wrong"
    end = f"{counts}, {clock_text(result.seconds)}"
    if result.ended == "budget":
        end += ", out of time"
    if result.trouble:
        end += f"; the default is {result.trouble}"
    if result.winner is None:
        return f"{kernel.op} {kernel.kernel}: no configuration gave right results ({end})"
    best = result.winner.candidate
    knobs = " ".join(f"{name}={value}" for name, value in sorted(best.config.items()))
    default = microseconds(result.winner.default_us)
    return (
        f"{kernel.op} {kernel.kernel}: {best.median_us:.1f} us, default {default}: {knobs} ({end})"
    )
