from __future__ import annotations

from dataclasses import replace

import pytest

from seqgen.gpu.resources import (
    AssemblerReport,
    KernelResources,
    is_trap_only,
    launchable,
    parse_amdgcn,
    parse_ptxas,
)
from seqgen.gpu.table import find_gpu
from seqgen.resource_report import SPILLS, KernelReport, report_table

FITS = KernelResources(
    kernel="forward_kernel",
    target="cuda:90",
    grid=(4096, 1, 1),
    num_warps=8,
    registers=255,
    stack_bytes=0,
    spill_store_bytes=0,
    spill_load_bytes=0,
    shared_bytes=232448,
    tmem_columns=0,
    trap_only=False,
    wrong_addresses=0,
    warnings=(),
    binary_sha256="0" * 64,
    compile_seconds=0.5,
    from_cache=False,
)


def test_report_says_where_registers_spill():
    spilling = replace(FITS, spill_store_bytes=12, spill_load_bytes=16)
    reports = [
        KernelReport(name, {"BK": 64, "maxnreg": 0}, "default", resources, "", case)
        for name, resources, case in (("one", FITS, {}), ("two", spilling, {"V": 1, "LAST": True}))
    ]
    assert report_table(reports) == [
        "kernel  regs     spill B  smem KB  config    knobs",
        "one      255         0/0      227  default   BK=64",
        "two      255       12/16      227  default   BK=64 (V=1 LAST=True)",
        SPILLS,
    ]
    assert SPILLS not in report_table(reports[:1])


@pytest.mark.parametrize(
    ("change", "gpu", "reason"),
    [
        ({}, "h100", None),
        (
            {"shared_bytes": 232449},
            "h100",
            "It needs 232449 bytes of shared memory; h100 has 232448 for a block.",
        ),
        ({"shared_bytes": 65536}, "mi300x", None),
        (
            {"num_warps": 16},
            "h100",
            "It needs 255 registers for each of 512 threads; h100 has 65536 for a block.",
        ),
        # 12 warps of 168 registers fill the file to 64512; 169 round up to 176.
        ({"num_warps": 12, "registers": 168}, "h100", None),
        (
            {"num_warps": 12, "registers": 169},
            "h100",
            "It needs 169 registers for each of 384 threads; h100 has 65536 for a block.",
        ),
        (
            {"num_warps": 64, "registers": 16},
            "h100",
            "It needs 2048 threads; a block has 1024 at most.",
        ),
        ({"tmem_columns": 512}, "b200", None),
        (
            {"tmem_columns": 576},
            "b200",
            "It needs 576 columns of tensor memory; b200 has 512.",
        ),
        (
            {"wrong_addresses": 2},
            "h100",
            "The assembler gives 2 operands of its matrix products wrong addresses: another "
            "configuration or a newer Triton may be right.",
        ),
        ({"trap_only": True}, "b200", "The compiler gave it up: its body is a trap."),
        (
            {"grid": (2**31, 1, 1)},
            "h100",
            "Its grid has 2147483648 blocks along x; 2147483647 is the limit.",
        ),
        (
            {"grid": (1, 1, 65536)},
            "h100",
            "Its grid has 65536 blocks along z; 65535 is the limit.",
        ),
    ],
)
def test_why_a_kernel_cannot_launch(change, gpu, reason):
    assert launchable(replace(FITS, **change), find_gpu(gpu)) == reason


def test_the_ptxas_log_is_read_whole():
    log = """\
ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized due\
 to insufficient register resources for the wgmma pipeline crossing function boundary in 'f'
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'f' for 'sm_90a'
ptxas info    : Function properties for f
    784 bytes stack frame, 1044 bytes spill stores, 1392 bytes spill loads
ptxas info    : Used 255 registers, used 1 barriers, 784 bytes cumulative stack size
ptxas info    : Function properties for helper
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
"""
    report = parse_ptxas(log)
    assert report == AssemblerReport(255, 800, 1048, 1400, report.warnings)
    assert len(report.warnings) == 1
    assert replace(FITS, warnings=report.warnings).wgmma_serialized
    assert not FITS.wgmma_serialized


def test_a_log_without_registers_is_refused():
    with pytest.raises(ValueError, match="no register count"):
        parse_ptxas("ptxas info    : 0 bytes gmem\n")


def test_amd_metadata_is_read():
    assembly = """\
    .vgpr_count:     200
  - .agpr_count:     32
    .private_segment_fixed_size: 96
    .sgpr_spill_count: 3
    .vgpr_spill_count: 21
"""
    assert parse_amdgcn(assembly) == AssemblerReport(200, 96, 84, 84, ())
    with pytest.raises(ValueError, match="no vgpr_spill_count"):
        parse_amdgcn(".vgpr_count: 8")


HEAD = ".visible .entry f(\n\t.param .u64 f_0\n)\n.reqntid 256\n{\n$L__begin0:\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("\t.loc 1 11 1 // f.py:11\n\ttrap;\n$L__end0:\n", True),
        ("\ttrap;\n\tret;\n", True),
        ("\tst.global.b32 [%rd1], %r1;\n\tret;\n", False),
        ("\t@%p1 trap;\n\tst.global.b32 [%rd1], %r1;\n\tret;\n", False),
        ("\tret;\n", False),
    ],
)
def test_a_body_that_only_traps_is_seen(body, expected):
    assert is_trap_only(HEAD + body + "}\n") is expected


def test_amd_assembly_has_no_trap_body():
    assert not is_trap_only("")
