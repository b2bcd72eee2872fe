from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest

from seqgen.errors import UsageError
from seqgen.gpu.detect import describe
from seqgen.gpu.table import GPUS, find_gpu
from seqgen.store.keys import DeviceKey


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h100", "h100"),
        ("H100 SXM", "h100"),
        ("h100_pcie", "h100-pcie"),
        ("H100-NVL", "h100-nvl"),
        ("h200", "h200"),
        ("NVIDIA H200", "h200"),
        ("A100", "a100"),
        ("a100-40gb", "a100-40"),
        ("RTX 4090", "rtx4090"),
        ("4090", "rtx4090"),
        ("MI300X", "mi300x"),
    ],
)
def test_a_gpu_is_found_by_any_of_its_names(name, expected):
    assert find_gpu(name).name == expected


def test_an_unknown_gpu_is_a_usage_error_with_the_list():
    with pytest.raises(UsageError) as caught:
        find_gpu("H20O")
    assert str(caught.value) == (
        "There is no GPU called 'H20O'. Known: auto, h100, h100-pcie, h100-nvl, h200, a100, "
        "a100-40, b200, rtx4090, l40s, mi300x. Did you mean 'h200'?"
    )


def test_names_are_unique():
    names = [name for gpu in GPUS for name in (gpu.name, *gpu.aliases)]
    assert len(set(names)) == len(names)


def test_device_keys_tell_all_gpus_apart_and_name_none():
    keys = [tuple(gpu.device_key().items()) for gpu in GPUS]
    assert len(set(keys)) == len(keys)
    assert find_gpu("h200").device_key() == {
        "vendor": "nvidia",
        "arch": "sm_90",
        "sm_count": 132,
        "shared_bytes": 232448,
        "l2_bytes": 62914560,
        "memory_gbps": 4800,
        "mig": "",
    }


def test_the_store_takes_the_device_key_as_it_is():
    key = DeviceKey(**find_gpu("h100").device_key())
    assert key == DeviceKey("nvidia", "sm_90", 132, 232448, 52428800, 3350)


def test_the_documented_limits_of_shared_memory():
    limits = {gpu.arch: gpu.smem_optin for gpu in GPUS}
    assert limits == {80: 166912, 89: 101376, 90: 232448, 100: 232448, "gfx942": 65536}


def test_naming_a_gpu_imports_no_torch():
    code = (
        "import sys; from seqgen.gpu.table import find_gpu; find_gpu('h100');"
        "sys.exit(any(name in sys.modules for name in ('torch', 'triton')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_auto_without_a_gpu_says_so(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match=r"This machine has no GPU .* Name the one to build for"):
        find_gpu("auto")


def device(name, major, minor, sms, gib, **fields):
    return SimpleNamespace(
        name=name,
        major=major,
        minor=minor,
        multi_processor_count=sms,
        total_memory=int(gib * 2**30),
        max_threads_per_multi_processor=fields.pop("threads", 2048),
        **fields,
    )


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        (device("NVIDIA H100 80GB HBM3", 9, 0, 132, 79.1), "h100"),
        (device("NVIDIA H100 PCIe", 9, 0, 114, 79.1), "h100-pcie"),
        (device("NVIDIA H100 NVL", 9, 0, 132, 93.1), "h100-nvl"),
        (device("NVIDIA H200", 9, 0, 132, 139.8), "h200"),
        (device("NVIDIA A100-SXM4-40GB", 8, 0, 108, 39.4), "a100-40"),
        (device("NVIDIA A100-SXM4-80GB", 8, 0, 108, 79.1), "a100"),
        (device("NVIDIA B200", 10, 0, 148, 178.35), "b200"),
        (device("NVIDIA GeForce RTX 4090", 8, 9, 128, 23.5), "rtx4090"),
        (device("NVIDIA L40S", 8, 9, 142, 44.4), "l40s"),
        (device("AMD Instinct MI300X", 9, 4, 304, 192, gcnArchName="gfx942:sramecc+"), "mi300x"),
    ],
)
def test_a_device_of_the_table_is_recognised(properties, expected):
    assert describe(properties) == find_gpu(expected)


def test_a_mig_slice_is_a_gpu_of_its_own():
    gpu = describe(
        device("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 9, 0, 16, 9.5, L2_cache_size=6 << 20)
    )
    assert gpu.name == "nvidia-h100-80gb-hbm3-mig-1g-10gb"
    assert (gpu.arch, gpu.sm_count, gpu.smem_optin, gpu.l2_bytes) == (90, 16, 232448, 6 << 20)
    assert gpu.device_key()["mig"] == "1g.10gb"
    assert gpu.bf16_rate == pytest.approx(989.4e12 * 16 / 132)


def test_an_unknown_device_is_described_by_its_driver():
    gpu = describe(
        device(
            "NVIDIA GeForce RTX 5090",
            12,
            0,
            170,
            31.4,
            threads=1536,
            warp_size=32,
            shared_memory_per_block_optin=101376,
            regs_per_multiprocessor=65536,
            L2_cache_size=100663296,
            memory_clock_rate=14001000,
            memory_bus_width=512,
        )
    )
    assert gpu.device_key() == {
        "vendor": "nvidia",
        "arch": "sm_120",
        "sm_count": 170,
        "shared_bytes": 101376,
        "l2_bytes": 100663296,
        "memory_gbps": 1792,
        "mig": "",
    }
    assert (gpu.max_warps_per_sm, gpu.tmem_columns) == (48, 0)
    assert gpu.dram_rate == pytest.approx(1.792e12, rel=1e-3)
