"""The GPU of this machine, as the table describes it or as its driver reports it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

from seqgen.errors import UsageError
from seqgen.gpu.table import GPUS, Gpu


def detect_gpu() -> Gpu:
    """The current device of ``torch.cuda`` (CUDA or ROCm).

    Raises:
        UsageError: torch sees no GPU.
    """
    import torch

    if not torch.cuda.is_available():
        known = ", ".join(gpu.name for gpu in GPUS)
        raise UsageError(
            f"This machine has no GPU that torch {torch.__version__} can use. "
            f"Name the one to build for, as in '--gpu h100': {known}."
        )
    return describe(torch.cuda.get_device_properties(torch.cuda.current_device()))


def describe(properties: Any) -> Gpu:
    """The GPU with these device properties (``torch.cuda.get_device_properties``).

    A device equal to a table entry in architecture, SM count, memory (within a tenth) and name is
    that entry. Another one, also a MIG slice, gets a description of its own: limits as the driver
    reports them, rates scaled per SM from the entry nearest in architecture.
    """
    hip_arch = getattr(properties, "gcnArchName", "") or ""
    is_hip = hip_arch.startswith("gfx")
    arch: int | str = hip_arch.split(":")[0] if is_hip else properties.major * 10 + properties.minor
    for gpu in GPUS:
        model = gpu.name.split("-")[0]
        if (
            gpu.arch == arch
            and gpu.sm_count == properties.multi_processor_count
            and abs(properties.total_memory / gpu.dram_bytes - 1) < 0.1
            and model in re.split(r"[^a-z0-9]+", properties.name.lower().replace("rtx ", "rtx"))
        ):
            return gpu
    return _unknown(properties, arch)


def _unknown(properties: Any, arch: int | str) -> Gpu:
    backend = "cuda" if isinstance(arch, int) else "hip"
    family = [gpu for gpu in GPUS if gpu.backend == backend]
    if isinstance(arch, int):
        like = min(family, key=lambda gpu: abs(int(gpu.arch) - arch))
    else:
        like = family[0]
    share = properties.multi_processor_count / like.sm_count
    # torch gained these two in 2.9; kHz and bits, two transfers per clock.
    clock, width = (
        getattr(properties, field, 0) or 0 for field in ("memory_clock_rate", "memory_bus_width")
    )
    slice_profile = re.search(r"\bMIG (\S+)", properties.name)
    return replace(
        like,
        mig=slice_profile.group(1) if slice_profile else "",
        name=re.sub(r"[^a-z0-9]+", "-", properties.name.lower()).strip("-"),
        title=properties.name,
        aliases=(),
        arch=arch,
        warp_size=getattr(properties, "warp_size", like.warp_size),
        sm_count=properties.multi_processor_count,
        smem_optin=getattr(properties, "shared_memory_per_block_optin", 0) or like.smem_optin,
        registers_per_sm=getattr(properties, "regs_per_multiprocessor", like.registers_per_sm),
        max_threads_per_sm=properties.max_threads_per_multi_processor,
        max_warps_per_sm=properties.max_threads_per_multi_processor // like.warp_size,
        # Data-centre Blackwell only: consumer Blackwell (sm_120) has no tensor memory.
        tmem_columns=512 if isinstance(arch, int) and 100 <= arch < 120 else 0,
        l2_bytes=getattr(properties, "L2_cache_size", like.l2_bytes),
        dram_bytes=properties.total_memory,
        dram_rate=2e3 * clock * width / 8 or like.dram_rate * share,
        bf16_rate=like.bf16_rate * share,
        fp32_rate=like.fp32_rate * share,
        mufu_rate=like.mufu_rate * share,
    )
