"""What the assembler got wrong: operands of Hopper's matrix products at wrong addresses.

A ``wgmma`` reads operands from shared memory by descriptors, whose low word holds an address and
whose high word is constant. ptxas 12.8, which Triton 3.6 carries, computes some of them, for tiles
of 32 bf16 channels, as ``UIADD3 low, carry, X, ...`` and ``UIADD3.X high, X, ..., carry`` with the
same register X in both, so that X cannot hold the address and zero. Kernels with such a pair gave
wrong results on a GPU, others right ones (docs/decisions/0016).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

TIMEOUT = 60.0  # seconds; a large kernel takes a fraction of one

_INSTRUCTION = re.compile(r"\*/\s+(?:@!?U?P\w+\s+)?(?P<op>[\w.]+)\s+(?P<operands>[^;]*);")
_UNIFORM = re.compile(r"UR(\d+)")


def wrong_addresses(disassembly: str) -> list[str]:
    """The second instructions of such pairs in the output of ``nvdisasm -c``, in order."""
    found = []
    defined: dict[str, int] = {}  # line on which each uniform register got its value
    lows: dict[str, tuple[str, int]] = {}  # by carry: the register that was added to, and whence
    for number, op, operands in _instructions(disassembly):
        if op == "UIADD3" and len(operands) > 2 and operands[1].startswith("UP"):
            source = operands[2]
            lows[operands[1]] = source, defined.get(source, 0)
        elif op == "UIADD3.X" and len(operands) > 4:
            source, carry = operands[1], operands[4]
            if _UNIFORM.fullmatch(source) and lows.get(carry) == (source, defined.get(source, 0)):
                found.append(f"{op} {', '.join(operands)}")
        for register in _results(op, operands):
            defined[register] = number
    return found


def disassemble(binary: bytes) -> str:
    """The text of a CUDA binary; "" where Triton's disassembler is missing or fails."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        try:
            tool = Path(knobs.nvidia.nvdisasm.path)
            done = subprocess.run(
                [tool, "-c", file.name], capture_output=True, text=True, timeout=TIMEOUT
            )
        except (OSError, RuntimeError, subprocess.SubprocessError):
            return ""
    return done.stdout


def _instructions(disassembly: str) -> Iterator[tuple[int, str, list[str]]]:
    for number, line in enumerate(disassembly.splitlines(), 1):
        match = _INSTRUCTION.search(line)
        if match is not None:
            yield number, match["op"], [part.strip() for part in match["operands"].split(",")]


def _results(op: str, operands: list[str]) -> list[str]:
    """The uniform registers that an instruction writes."""
    if not op.startswith(("U", "R2UR", "S2UR")):
        return []
    first = next((part for part in operands if not part.startswith("UP")), "")
    match = _UNIFORM.fullmatch(first)
    if match is None:
        return []
    words = 4 if ".128" in op else 2 if ".64" in op or ".WIDE" in op else 1
    return [f"UR{int(match[1]) + word}" for word in range(words)]
