"""Addresses that the assembler gets wrong, in disassemblies as nvdisasm prints them."""

from __future__ import annotations

import pytest

from seqgen.gpu.machine_code import disassemble, wrong_addresses


def listing(*instructions: str) -> str:
    lines = [
        f"        /*{16 * n:04x}*/                   {i} ;" for n, i in enumerate(instructions)
    ]
    return "\n".join([".text.f:", *lines, "\t.L_x_0:"])


LOW = "UIADD3 UR30, UP0, UR6, 0x40, URZ"
HIGH = "UIADD3.X UR31, UR6, -0x7fffffe0, URZ, UP0, !UPT"


def test_both_words_from_one_register():
    found = wrong_addresses(listing("USGXT.U32 UR6, UR4, 0xe", LOW, "FMUL R1, R2, R3", HIGH))
    assert found == ["UIADD3.X UR31, UR6, -0x7fffffe0, URZ, UP0, !UPT"]


@pytest.mark.parametrize(
    "instructions",
    [
        ("UMOV UR5, URZ", LOW, HIGH.replace("UR31, UR6", "UR31, UR5")),
        (LOW, "UMOV UR6, URZ", HIGH),  # it holds the address, then zero
        ("USGXT.U32 UR6, UR4, 0xe", LOW, "@!UP1 UIADD3.64 UR6, UR8, 0x40, URZ", HIGH),
        ("UMOV UR5, URZ", LOW, "ULDC.64 UR6, c[0x0][0x278]", HIGH),
        (LOW.replace("UP0", "UP1"), HIGH),  # another carry
        ("UIADD3 UR30, UR6, 0x40, URZ", HIGH),
    ],
)
def test_what_is_right(instructions):
    assert wrong_addresses(listing(*instructions)) == []


def test_what_is_no_binary_has_no_text():
    assert disassemble(b"no binary") == ""
