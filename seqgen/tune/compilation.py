"""Compile candidates before they are timed: many at once, and where an abort costs one."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from seqgen.tune.results import Compiled

Compiler = Callable[
    [Callable[[Mapping[str, Any]], object], Sequence[Mapping[str, Any]]], list[Compiled]
]
"""Given a function that launches with a configuration, and the configurations."""

COMPILE_SECONDS = 20.0
"""Users would wait for what takes longer, and a batch waits for its slowest: an H100 run lost half
of its budget to a pointwise kernel with one warp, 43 s.
"""

MAX_STACK_BYTES = 2048
"""Kernels with a larger frame take ten times as long to compile and have never won."""


def gpu_compiler() -> Compiler:
    """Compiles for the GPU of this machine in processes; the JIT then finds the binaries."""
    from seqgen.gpu.detect import detect_gpu
    from seqgen.gpu.launches import Launch, capture_launches
    from seqgen.gpu.pool import CompileFailure, CompilePool
    from seqgen.gpu.resources import KernelResources, launchable

    gpu = detect_gpu()
    # Never closed: it lives as long as the worker, and its processes end with their pipes.
    pool = CompilePool(gpu, deadline=COMPILE_SECONDS)

    def judge(results: Sequence[KernelResources | CompileFailure]) -> Compiled:
        for result in results:
            if isinstance(result, CompileFailure):
                return Compiled(rejected=result.reason)
            reason = launchable(result, gpu)
            if reason is None and result.stack_bytes > MAX_STACK_BYTES:
                reason = f"Its stack frame has {result.stack_bytes} bytes."
            if reason is not None:
                return Compiled(rejected=reason)
        good = [r for r in results if isinstance(r, KernelResources)]
        if not good:
            return Compiled()
        return Compiled(
            registers=max(r.registers for r in good),
            spills=max(r.spill_store_bytes for r in good) // 4,
            shared_bytes=max(r.shared_bytes for r in good),
        )

    def compile_all(
        launching: Callable[[Mapping[str, Any]], object], configs: Sequence[Mapping[str, Any]]
    ) -> list[Compiled]:
        captured: list[list[Launch] | str] = []
        for config in configs:
            try:
                captured.append(capture_launches(functools.partial(launching, config)))
            except Exception as error:
                # A launcher may refuse a configuration in any way it likes.
                captured.append(f"{type(error).__name__}: {error}")
        launches = [launch for group in captured if not isinstance(group, str) for launch in group]
        results = iter(pool.compile(launches))
        return [
            Compiled(rejected=group)
            if isinstance(group, str)
            else judge([next(results) for _ in group])
            for group in captured
        ]

    return compile_all
