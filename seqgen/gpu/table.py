"""What seqgen knows about GPUs: enough to reject a kernel that cannot launch, without having one.

Sources of the numbers, named in the entries below:

* [CC] NVIDIA CUDA C++ Programming Guide, "Technical Specifications per Compute Capability": 65536
  registers per SM and block; 2048 threads (64 warps) per SM for 8.0, 9.0, 10.0 and 1536 (48) for
  8.9; shared memory per block 163 KiB (8.0), 99 KiB (8.9), 227 KiB (9.0, 10.0); 16 special-function
  results per SM and clock.
* [PTX] PTX ISA, "Tensor Memory": 512 columns per SM on sm_100.
* [A100] NVIDIA A100 data sheet (PB-10577) and "NVIDIA A100 Tensor Core GPU Architecture" paper.
* [H100] NVIDIA H100 data sheet and "NVIDIA H100 Tensor Core GPU Architecture" paper.
* [H200] NVIDIA H200 data sheet. Its L2 is what the driver reports (60 MiB; the die has 50 on H100).
* [B200] NVIDIA Blackwell data sheet (HGX B200 column). SM count and L2 are what the driver reports.
* [Ada] "NVIDIA Ada GPU Architecture" paper, appendix A (RTX 4090); NVIDIA L40S data sheet.
* [MI300X] AMD Instinct MI300X data sheet and "AMD CDNA 3" white paper and ISA guide.

Tensor rates are dense, with fp32 accumulation; data sheets print twice that "with sparsity".
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from seqgen.errors import UsageError, did_you_mean

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB


@dataclass(frozen=True)
class Gpu:
    """One GPU model, or the part of one that a process sees."""

    name: str
    """The name seqgen uses: lower case, as on the command line."""
    title: str
    """The vendor's name. It is shown, and never part of a tuning key."""
    aliases: tuple[str, ...]
    backend: str
    """Triton's backend: ``cuda`` or ``hip``."""
    arch: int | str
    """Triton's architecture: 90 for sm_90, ``gfx942``."""
    warp_size: int
    sm_count: int
    """Streaming multiprocessors, or compute units."""
    smem_optin: int
    """Shared memory one block may ask for, in bytes."""
    registers_per_sm: int
    """32-bit registers; one block may have all of them."""
    max_threads_per_sm: int
    max_warps_per_sm: int
    tmem_columns: int
    """Tensor memory of one SM, in columns; 0 where there is none."""
    l2_bytes: int
    dram_bytes: int
    dram_rate: float
    """Bytes per second."""
    bf16_rate: float
    """Dense bf16 tensor-core FLOP per second."""
    fp32_rate: float
    """FLOP per second outside the tensor cores."""
    mufu_rate: float
    """Special-function results (exp2, rcp, rsqrt) per second."""
    mig: str = ""
    """The profile of a MIG slice, as ``1g.10gb``; empty for a whole GPU."""

    max_threads_per_block = 1024

    @property
    def vendor(self) -> str:
        """``nvidia`` or ``amd``."""
        return "nvidia" if self.backend == "cuda" else "amd"

    @property
    def arch_name(self) -> str:
        """``sm_90`` or ``gfx942``."""
        return f"sm_{self.arch}" if self.backend == "cuda" else str(self.arch)

    def device_key(self) -> dict[str, str | int]:
        """The silicon as the tuning store keys it: what a measured time depends on.

        The DRAM rate tells H100 from H200, whose SMs are equal. The marketing name is no part.
        """
        return {
            "vendor": self.vendor,
            "arch": self.arch_name,
            "sm_count": self.sm_count,
            "shared_bytes": self.smem_optin,
            "l2_bytes": self.l2_bytes,
            "memory_gbps": round(self.dram_rate / 1e9),
            "mig": self.mig,
        }

    def __str__(self) -> str:
        return f"{self.name} ({self.arch_name}, {self.sm_count} SMs)"


# [H100] SXM5 80 GB HBM3: 132 SMs, 50 MB L2, 3.35 TB/s, 989.4 TFLOP/s bf16, 66.9 TFLOP/s fp32 at
# 1.83 GHz. [CC] for the limits per SM.
_H100_SXM = Gpu(
    name="h100",
    title="NVIDIA H100 SXM 80GB",
    aliases=("h100-sxm", "h100-sxm5", "h100-80gb"),
    backend="cuda",
    arch=90,
    warp_size=32,
    sm_count=132,
    smem_optin=227 * KIB,
    registers_per_sm=65536,
    max_threads_per_sm=2048,
    max_warps_per_sm=64,
    tmem_columns=0,
    l2_bytes=50 * MIB,
    dram_bytes=80 * GIB,
    dram_rate=3.35e12,
    bf16_rate=989.4e12,
    fp32_rate=66.9e12,
    mufu_rate=132 * 16 * 1.83e9,
)
# [H100] PCIe 80 GB HBM2e: 114 SMs, 2.0 TB/s, 756 TFLOP/s bf16, 51.2 TFLOP/s fp32 at 1.755 GHz.
_H100_PCIE = replace(
    _H100_SXM,
    name="h100-pcie",
    title="NVIDIA H100 PCIe",
    aliases=(),
    sm_count=114,
    dram_rate=2.039e12,
    bf16_rate=756e12,
    fp32_rate=51.2e12,
    mufu_rate=114 * 16 * 1.755e9,
)
# [H100] NVL 94 GB HBM3: 3.9 TB/s, 835 TFLOP/s bf16, 60 TFLOP/s fp32 (1.785 GHz).
_H100_NVL = replace(
    _H100_SXM,
    name="h100-nvl",
    title="NVIDIA H100 NVL",
    aliases=(),
    dram_bytes=94 * GIB,
    dram_rate=3.9e12,
    bf16_rate=835e12,
    fp32_rate=60e12,
    mufu_rate=132 * 16 * 1.785e9,
)
# [H200] 141 GB HBM3e, 4.8 TB/s, 989 TFLOP/s bf16, 67 TFLOP/s fp32.
_H200 = replace(
    _H100_SXM,
    name="h200",
    title="NVIDIA H200",
    aliases=("h200-sxm",),
    l2_bytes=60 * MIB,
    dram_bytes=140 * GIB,
    dram_rate=4.8e12,
)
# [A100] SXM4 80 GB HBM2e: 108 SMs, 40 MB L2, 2.039 TB/s, 312 TFLOP/s bf16, 19.5 TFLOP/s fp32 at
# 1.41 GHz.
_A100_80 = replace(
    _H100_SXM,
    name="a100",
    title="NVIDIA A100 80GB",
    aliases=("a100-80", "a100-80gb", "a100-sxm"),
    arch=80,
    sm_count=108,
    smem_optin=163 * KIB,
    l2_bytes=40 * MIB,
    dram_rate=2.039e12,
    bf16_rate=312e12,
    fp32_rate=19.5e12,
    mufu_rate=108 * 16 * 1.41e9,
)
# [A100] SXM4 40 GB HBM2: 1.555 TB/s.
_A100_40 = replace(
    _A100_80,
    name="a100-40",
    title="NVIDIA A100 40GB",
    aliases=("a100-40gb",),
    dram_bytes=40 * GIB,
    dram_rate=1.555e12,
)
# [B200] 180 GB HBM3e, 7.7 TB/s, 2.25 PFLOP/s bf16, 75 TFLOP/s fp32; 148 SMs, 126.5 MiB L2,
# 1.965 GHz. [PTX] for tensor memory.
_B200 = replace(
    _H100_SXM,
    name="b200",
    title="NVIDIA B200",
    aliases=("b200-sxm",),
    arch=100,
    sm_count=148,
    tmem_columns=512,
    l2_bytes=253 * MIB // 2,
    dram_bytes=179 * GIB,
    dram_rate=7.7e12,
    bf16_rate=2250e12,
    fp32_rate=75e12,
    mufu_rate=148 * 16 * 1.965e9,
)
# [Ada] 128 SMs, 72 MB L2, 24 GB at 1.008 TB/s, 165.2 TFLOP/s bf16, 82.6 TFLOP/s fp32 at 2.52 GHz.
_RTX4090 = replace(
    _H100_SXM,
    name="rtx4090",
    title="NVIDIA GeForce RTX 4090",
    aliases=("4090",),
    arch=89,
    sm_count=128,
    smem_optin=99 * KIB,
    max_threads_per_sm=1536,
    max_warps_per_sm=48,
    l2_bytes=72 * MIB,
    dram_bytes=24 * GIB,
    dram_rate=1.008e12,
    bf16_rate=165.2e12,
    fp32_rate=82.6e12,
    mufu_rate=128 * 16 * 2.52e9,
)
# [Ada] L40S data sheet: 142 SMs, 96 MB L2, 48 GB at 864 GB/s, 362 TFLOP/s bf16, 91.6 TFLOP/s fp32.
_L40S = replace(
    _RTX4090,
    name="l40s",
    title="NVIDIA L40S",
    aliases=(),
    sm_count=142,
    l2_bytes=96 * MIB,
    dram_bytes=45 * GIB,  # 48 GB less the share that ECC takes
    dram_rate=0.864e12,
    bf16_rate=362e12,
    fp32_rate=91.6e12,
    mufu_rate=142 * 16 * 2.52e9,
)
# [MI300X] 304 CUs with 64 KiB LDS; 4 SIMDs of 512 vector registers x 64 lanes and 8 waves each;
# 4 MiB L2 per XCD, 8 XCDs; 192 GB HBM3 at 5.3 TB/s, 1307 TFLOP/s bf16, 163.4 TFLOP/s fp32 at
# 2.1 GHz; transcendentals at a quarter of 64 lanes per clock.
_MI300X = Gpu(
    name="mi300x",
    title="AMD Instinct MI300X",
    aliases=("mi300",),
    backend="hip",
    arch="gfx942",
    warp_size=64,
    sm_count=304,
    smem_optin=64 * KIB,
    registers_per_sm=4 * 512 * 64,
    max_threads_per_sm=2048,
    max_warps_per_sm=32,
    tmem_columns=0,
    l2_bytes=32 * MIB,
    dram_bytes=192 * GIB,
    dram_rate=5.3e12,
    bf16_rate=1307.4e12,
    fp32_rate=163.4e12,
    mufu_rate=304 * 16 * 2.1e9,
)

GPUS: tuple[Gpu, ...] = (
    _H100_SXM,
    _H100_PCIE,
    _H100_NVL,
    _H200,
    _A100_80,
    _A100_40,
    _B200,
    _RTX4090,
    _L40S,
    _MI300X,
)


def _folded(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def find_gpu(name: str) -> Gpu:
    """The GPU called ``name``; case, spaces and dashes do not matter.

    ``auto`` is the GPU of this machine.

    Raises:
        UsageError: no GPU has that name, or ``auto`` found none.
    """
    wanted = _folded(name)
    if wanted == "auto":
        # Looking at the machine imports torch; naming a GPU does not.
        from seqgen.gpu.detect import detect_gpu

        return detect_gpu()
    names = {_folded(alias): gpu for gpu in GPUS for alias in (gpu.name, gpu.title, *gpu.aliases)}
    for prefix in ("", "nvidia", "amd"):
        found = names.get(prefix + wanted) or names.get(wanted.removeprefix(prefix))
        if found is not None:
            return found
    known = [gpu.name for gpu in GPUS]
    hint = did_you_mean(name.lower(), known)
    message = f"There is no GPU called '{name}'. Known: auto, {', '.join(known)}."
    raise UsageError(f"{message} {hint}".rstrip())


def describe_table() -> str:
    """All GPUs as ``seqgen gpus`` prints them."""
    rows = [("name", "aliases", "arch", "SMs", "smem KB", "DRAM TB/s", "bf16 TFLOP/s")]
    for gpu in GPUS:
        rows.append(
            (
                gpu.name,
                ", ".join(gpu.aliases),
                gpu.arch_name,
                str(gpu.sm_count),
                f"{gpu.smem_optin / KIB:.0f}",
                f"{gpu.dram_rate / 1e12:.2f}",
                f"{gpu.bf16_rate / 1e12:.0f}",
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)
