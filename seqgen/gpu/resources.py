"""What a compiled kernel needs of a GPU, and whether the GPU has it.

A kernel that compiles may still not launch: the compiler checks nothing that depends on the device,
and Triton's own checks run in the driver, at the first launch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from seqgen.gpu.table import Gpu


@dataclass(frozen=True)
class KernelResources:
    """The cost of one compiled launch. Sizes in bytes; registers per thread."""

    kernel: str
    target: str
    """``cuda:90`` or ``hip:gfx942``."""
    grid: tuple[int, int, int]
    num_warps: int
    """Also those that the compiler added for warp specialisation."""
    registers: int
    stack_bytes: int
    spill_store_bytes: int
    """Per thread. On AMD four times the spilled registers; its compiler reports no more."""
    spill_load_bytes: int
    shared_bytes: int
    tmem_columns: int
    trap_only: bool
    """The compiler gave up and left a body that does nothing but fault."""
    wrong_addresses: int
    """Operands of matrix products that the assembler looks for in the wrong place."""
    warnings: tuple[str, ...]
    """The assembler's, in its words."""
    binary_sha256: str
    compile_seconds: float
    from_cache: bool

    @property
    def wgmma_serialized(self) -> bool:
        """The assembler put waits between the matrix instructions: correct, and slow."""
        return any("wgmma" in warning and "serialized" in warning for warning in self.warnings)

    def __str__(self) -> str:
        parts = [f"{self.num_warps} warps", f"{self.registers} registers"]
        parts.append(f"{self.shared_bytes / 1024:.0f} KiB shared")
        if self.tmem_columns:
            parts.append(f"{self.tmem_columns} TMEM columns")
        if self.spill_store_bytes or self.spill_load_bytes:
            parts.append(f"spills {self.spill_store_bytes} B out, {self.spill_load_bytes} B in")
        if self.wgmma_serialized:
            parts.append("wgmma serialized")
        return f"{self.kernel}: {', '.join(parts)}"


def launchable(resources: KernelResources, gpu: Gpu) -> str | None:
    """Why the kernel cannot launch on ``gpu``, in one sentence; None if it can."""
    threads = resources.num_warps * gpu.warp_size
    # The hardware hands out registers in groups of eight per thread.
    registers = threads * (-(-resources.registers // 8) * 8)
    if resources.shared_bytes > gpu.smem_optin:
        return (
            f"It needs {resources.shared_bytes} bytes of shared memory; "
            f"{gpu.name} has {gpu.smem_optin} for a block."
        )
    if resources.tmem_columns > gpu.tmem_columns:
        return (
            f"It needs {resources.tmem_columns} columns of tensor memory; "
            f"{gpu.name} has {gpu.tmem_columns}."
        )
    if threads > gpu.max_threads_per_block:
        return f"It needs {threads} threads; a block has {gpu.max_threads_per_block} at most."
    if registers > gpu.registers_per_sm:
        return (
            f"It needs {resources.registers} registers for each of {threads} threads; "
            f"{gpu.name} has {gpu.registers_per_sm} for a block."
        )
    if resources.trap_only:
        return "The compiler gave it up: its body is a trap."
    if resources.wrong_addresses:
        return (
            f"The assembler gives {resources.wrong_addresses} operands of its matrix products "
            "wrong addresses: another configuration or a newer Triton may be right."
        )
    limits = (2**31 - 1, 65535, 65535)
    for axis, size, limit in zip("xyz", resources.grid, limits, strict=True):
        if size > limit:
            return f"Its grid has {size} blocks along {axis}; {limit} is the limit."
    return None


@dataclass(frozen=True)
class AssemblerReport:
    """What the assembler said of one kernel."""

    registers: int
    stack_bytes: int
    spill_store_bytes: int
    spill_load_bytes: int
    warnings: tuple[str, ...]
    wrong_addresses: int = 0
    """As in KernelResources; not the assembler's word, but read in what it wrote."""


def parse_ptxas(log: str) -> AssemblerReport:
    """Read the output of ``ptxas -v``; a function the kernel calls adds to its frame and spills.

    Raises:
        ValueError: the log does not say how many registers the kernel uses.
    """
    registers = [int(number) for number in re.findall(r"Used (\d+) registers", log)]
    if not registers:
        raise ValueError("no register count in the ptxas output")
    frames = re.findall(
        r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", log
    )
    stack, stores, loads = (sum(int(frame[i]) for frame in frames) for i in range(3))
    warnings = re.findall(r"(?:\(C\d+\) |warning\s*: )(.*\S)", log)
    return AssemblerReport(max(registers), stack, stores, loads, tuple(warnings))


def parse_amdgcn(assembly: str) -> AssemblerReport:
    """Read the kernel metadata at the end of AMD assembly text.

    ``vgpr_count`` is the whole vector register file of a thread, accumulation registers included.

    Raises:
        ValueError: there is no such metadata.
    """

    def field(name: str) -> int:
        match = re.search(rf"\.{name}:\s+(\d+)", assembly)
        if match is None:
            raise ValueError(f"no {name} in the AMD kernel metadata")
        return int(match.group(1))

    spill = 4 * field("vgpr_spill_count")
    frame = field("private_segment_fixed_size")
    return AssemblerReport(field("vgpr_count"), frame, spill, spill, ())


def is_trap_only(ptx: str) -> bool:
    """Whether the kernel in ``ptx`` is nothing but a trap (seen when tensor memory runs out)."""
    entry = ptx.partition(".entry")[2].partition("{")[2]
    body = entry[: entry.find("\n}")]
    lines = (line.split("//")[0].strip() for line in body.splitlines())
    instructions = [
        line for line in lines if line and not line.startswith((".", "$", "{")) and line != "ret;"
    ]
    return instructions == ["trap;"]
