"""Seconds from the start of a process to the end of its first forward and backward.

    python -m benchmarks.cold_start --op simple_gla --file simple_gla.py
    python -m benchmarks.cold_start --op simple_gla --contender seqgen "fla simple_gla"

Kernel caches are empty, nothing is tuned beforehand: this is what a user waits for on a new
machine. Without ``--file`` ours is built from its spec within that time. Python's byte code of all
libraries is there, as installers leave it: a process that nobody times imports them before.

The script measured imports a generated file first and lets it import torch: Triton then hashes
itself meanwhile. With ``--torch-first`` it imports torch before; peers always import torch first.
Two contenders, no operators, are the floor: ``torch alone`` and ``smallest Triton kernel``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks import contenders, processes
from benchmarks.floors import FLOORS, TORCH, TRITON
from benchmarks.operators import OPERATORS
from benchmarks.shapes import Shape

BYTE_CODE = Path(tempfile.gettempdir()) / "seqgen-benchmarks"
"""Where the measured processes keep byte code: the libraries' own folders may be read-only."""


@dataclass(frozen=True)
class Question:
    """Whose cold start, on what."""

    operator: str
    contender: str
    shape: str
    dtype: str
    file: str | None
    torch_first: bool = False


def write_byte_code(question: Question) -> None:
    """In a process that nobody times: imports what ``first_step`` will, and a kernel compiles."""
    FLOORS[TRITON]()
    if question.contender not in FLOORS:
        contenders.load(OPERATORS[question.operator], question.contender, question.file)


def first_step(question: Question) -> None:
    """In the fresh process: one forward and backward; prints the time at its end."""
    if question.contender in FLOORS:
        print(json.dumps({"finished": FLOORS[question.contender]()}))
        return
    import torch

    from benchmarks.race import cotangent, leaf_names

    operator = OPERATORS[question.operator]
    file = question.file
    if question.contender == contenders.OURS and file is None:
        file = contenders.build(operator)
    call = contenders.load(operator, question.contender, file)
    dtype = getattr(torch, question.dtype)
    inputs = operator.inputs(Shape.parse(question.shape), dtype, "cuda", seed=4)
    # A scalar loss, as in training: a gradient handed to backward makes torch import sympy, 2 s.
    loss = (call(inputs) * cotangent(inputs)).sum()
    torch.autograd.grad(loss, [inputs[name] for name in leaf_names(inputs)])
    torch.cuda.synchronize()
    print(json.dumps({"finished": time.time()}))


def ask(question: Question, timeout: float) -> dict[str, Any]:
    """Measures in a fresh process with empty caches.

    Args:
        question: what to measure.
        timeout: seconds after which the process is ended.

    Returns:
        The question's fields with ``cold_start_s``; None there, and ``broken``, if it did not end.
    """
    about = asdict(question)
    if timeout <= 0:
        return {**about, "cold_start_s": None, "broken": "no time left"}
    until = time.time() + timeout
    program = ""
    if question.contender == contenders.OURS and question.file and not question.torch_first:
        program = f"from benchmarks.generated import load_file; load_file({question.file!r}); "
    try:
        _call("write_byte_code", about, until)
        start = time.time()
        done = _call("first_step", about, until, program)
    except subprocess.TimeoutExpired:
        return {**about, "cold_start_s": None, "broken": f"more than {timeout:.0f} s"}
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    if done.returncode != 0:
        return {**about, "cold_start_s": None, "broken": lines[-1][:200] if lines else "crashed"}
    return {**about, "cold_start_s": round(json.loads(lines[-1])["finished"] - start, 2)}


def _call(
    function: str, about: dict[str, Any], until: float, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """A function of this file in a fresh process with empty kernel caches."""
    program = f"{before}import json, sys; from benchmarks.cold_start import Question, {function}; "
    program += f"{function}(Question(**json.loads(sys.argv[1])))"
    with tempfile.TemporaryDirectory() as cache:
        environment = processes.environment(Path(cache))
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment["PYTHONPYCACHEPREFIX"] = str(BYTE_CODE)
        return subprocess.run(
            [sys.executable, "-c", program, json.dumps(about)],
            env=environment,
            cwd=processes.ROOT,
            capture_output=True,
            text=True,
            timeout=max(0.0, until - time.time()),
            check=False,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cold_start", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--op", required=True, choices=sorted(OPERATORS), metavar="NAME")
    parser.add_argument("--contender", nargs="+", default=[TORCH, TRITON, contenders.OURS])
    parser.add_argument("--shape", default="2x16384x16x128", metavar="BxTxHxD")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    parser.add_argument("--file", metavar="PATH", help="our generated file; built if not given")
    parser.add_argument("--torch-first", action="store_true", help="import torch, then our file")
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS")
    parsed = parser.parse_args(arguments)
    known = [*FLOORS, *contenders.names(OPERATORS[parsed.op])]
    unknown = [name for name in parsed.contender if name not in known]
    if unknown:
        parser.error(f"{unknown[0]!r} does not race here; choose from {', '.join(known)}")
    asked = (parsed.shape, parsed.dtype, parsed.file, parsed.torch_first)
    answers = [ask(Question(parsed.op, name, *asked), parsed.timeout) for name in parsed.contender]
    for answer in answers:
        print(json.dumps(answer))
    return int(any(answer["cold_start_s"] is None for answer in answers))


if __name__ == "__main__":
    sys.exit(main())
