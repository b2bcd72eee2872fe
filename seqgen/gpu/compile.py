"""Compile a recorded launch for a GPU that need not be there, and report what it costs.

The kernel is specialised exactly as Triton's JIT would for the recorded arguments (divisibility by
16, ints equal to 1, None): without that another kernel gets compiled, with other registers. The
binaries land in Triton's own cache, keyed by content; the assembler's report lies beside them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import re
import time
from pathlib import Path
from typing import Any

from seqgen.errors import SeqgenError
from seqgen.gpu.launches import DescriptorArgument, Launch, TensorArgument
from seqgen.gpu.machine_code import disassemble, wrong_addresses
from seqgen.gpu.resources import (
    AssemblerReport,
    KernelResources,
    is_trap_only,
    parse_amdgcn,
    parse_ptxas,
)
from seqgen.gpu.table import Gpu


class CompileError(SeqgenError):
    """A kernel that does not compile."""


def compile_launch(launch: Launch, gpu: Gpu) -> KernelResources:
    """Cross-compile ``launch`` for ``gpu`` in this process.

    The compiler may abort the whole process on a bad kernel; ``compile_launches`` shields from it.

    Raises:
        CompileError: Triton or the assembler refused the kernel.
    """
    from triton.backends.compiler import GPUTarget

    target = GPUTarget(gpu.backend, gpu.arch, gpu.warp_size)
    start = time.perf_counter()
    try:
        source, options = specialise(launch, target)
        compiled, log, from_cache = _compile(source, target, options)
        report = _report(compiled, log)
        if report is None:
            # In the cache, put there by the JIT: only assembling it again tells its spills.
            from triton import knobs

            with knobs.compilation.scope():
                knobs.compilation.always_compile = True
                compiled, log, from_cache = _compile(source, target, options)
            report = _report(compiled, log)
        if report is None:
            raise ValueError("the assembler said nothing")
    except Exception as error:
        # Triton raises everything from AssertionError to its own classes on a kernel it cannot do.
        raise CompileError(
            f"{launch.name} does not compile for {gpu.name}: {_in_short(error)}"
        ) from error
    binary: bytes = compiled.kernel
    metadata = compiled.metadata
    return KernelResources(
        kernel=launch.name,
        target=f"{gpu.backend}:{gpu.arch}",
        grid=launch.grid,
        num_warps=metadata.num_warps,
        registers=report.registers,
        stack_bytes=report.stack_bytes,
        spill_store_bytes=report.spill_store_bytes,
        spill_load_bytes=report.spill_load_bytes,
        shared_bytes=metadata.shared,
        tmem_columns=getattr(metadata, "tmem_size", None) or 0,
        trap_only=is_trap_only(compiled.asm.get("ptx", "")),
        wrong_addresses=report.wrong_addresses,
        warnings=report.warnings,
        binary_sha256=hashlib.sha256(binary).hexdigest(),
        compile_seconds=time.perf_counter() - start,
        from_cache=from_cache,
    )


def is_cached(launch: Launch, gpu: Gpu) -> bool:
    """Whether ``compile_launch`` would compile nothing: binary and report are in Triton's cache."""
    from triton import knobs
    from triton._C.libtriton import get_cache_invalidating_env_vars
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.cache import get_cache_key, get_cache_manager

    if knobs.compilation.always_compile:
        return False
    target = GPUTarget(gpu.backend, gpu.arch, gpu.warp_size)
    try:
        source, options = specialise(launch, target)
    except Exception:
        # The same error comes again when it is compiled, and is reported there.
        return False
    backend = make_backend(target)
    variables = get_cache_invalidating_env_vars()
    key = get_cache_key(source, backend, backend.parse_options(options), env_vars=variables)
    manager = get_cache_manager(hashlib.sha256(key.encode()).hexdigest())
    name = f"{source.name[:150]}.json"
    metadata = (manager.get_group(name) or {}).get(name)
    return metadata is not None and (gpu.backend == "hip" or _report_file(Path(metadata)).exists())


def specialise(launch: Launch, target: Any) -> tuple[Any, dict[str, Any]]:
    """The ``ASTSource`` and options with which the JIT of ``target`` would compile the launch.

    It asks the very functions that the JIT asks, but for a ``GPUTarget`` instead of the driver.
    """
    from triton import knobs
    from triton.compiler import ASTSource, make_backend
    from triton.runtime.jit import create_function_from_signature

    kernel = launch.kernel
    backend = make_backend(target)
    arguments = {
        name: value.meta() if isinstance(value, TensorArgument | DescriptorArgument) else value
        for name, value in launch.arguments.items()
    }
    options = {
        "debug": kernel.debug or knobs.runtime.debug,
        "instrumentation_mode": knobs.compilation.instrumentation_mode,
        **launch.options,
    }
    binder = create_function_from_signature(kernel.signature, kernel.params, backend)
    bound, specialisation, given = binder(**arguments, **options)
    packed = kernel._pack_args(backend, options, bound, specialisation, given)
    parsed, signature, constexprs, attributes = packed
    return ASTSource(kernel, signature, constexprs, attributes), parsed.__dict__


def _compile(source: Any, target: Any, options: dict[str, Any]) -> tuple[Any, str, bool]:
    """The compiled kernel, what the assembler printed, and whether it all came from the cache."""
    import triton
    from triton import knobs

    printed = io.StringIO()
    hits: list[bool] = []

    def listen(*, cache_hit: bool, **_: Any) -> None:
        hits.append(cache_hit)

    # Triton calls the assembler with flags of its own, by version: its log is the one to read.
    with (
        knobs.nvidia.scope(),
        knobs.compilation.scope(),
        contextlib.redirect_stdout(printed),
    ):
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.listener = listen
        compiled = triton.compile(source, target=target, options=options)
    return compiled, printed.getvalue(), hits == [True]


def _report(compiled: Any, log: str) -> AssemblerReport | None:
    """What the assembler said, now or when it filled the cache; None if nobody wrote it down."""
    if "amdgcn" in compiled.asm:
        return parse_amdgcn(compiled.asm["amdgcn"])
    metadata = next(
        Path(path) for path in compiled.metadata_group.values() if path.endswith("json")
    )
    file = _report_file(metadata)
    if "Used " in log:
        report = parse_ptxas(log)
        report = dataclasses.replace(report, wrong_addresses=_wrong_addresses(compiled))
        _keep(file, json.dumps(dataclasses.asdict(report)))
        return report
    try:
        stored = json.loads(file.read_text())
        stored["wrong_addresses"]  # a report of before it was counted is none
        return AssemblerReport(**stored | {"warnings": tuple(stored["warnings"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _wrong_addresses(compiled: Any) -> int:
    """How many operands of asynchronous matrix products the assembler got wrong."""
    if "wgmma" not in compiled.asm.get("ptx", ""):
        return 0
    return len(wrong_addresses(disassemble(compiled.kernel)))


def _report_file(metadata: Path) -> Path:
    return metadata.with_suffix(".seqgen-report")


def _keep(file: Path, text: str) -> None:
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    # A cache that cannot be written costs the next build time, and nothing else.
    with contextlib.suppress(OSError):
        temporary.write_text(text)
        temporary.replace(file)


def _in_short(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if isinstance(error, KeyError) or not lines:
        return f"{type(error).__name__}: {error}"
    assembler = [line for line in lines if re.match(r"ptxas\S* (info|error|fatal)\b", line)]
    refusals = [line for line in assembler if not re.match(r"ptxas\S* info\b", line)]
    if refusals:
        return refusals[0]
    # Triton's front end begins with the place and ends with the reason.
    return lines[0] if len(lines) == 1 else f"{lines[0]} {lines[-1]}"
