"""``seqgen build``: write the files, then say what each kernel needs."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from seqgen.build import Compiled, compile_spec, read_spec
from seqgen.errors import SeqgenError, UsageError
from seqgen.gpu.table import Gpu, find_gpu
from seqgen.ir.printer import show_recurrence
from seqgen.runtime.cache import write_module
from seqgen.runtime.loader import load_module
from seqgen.tuned import tuned_configs


def run_build(options: argparse.Namespace) -> int:
    """Build every spec for every GPU; returns the exit status."""
    gpus = [find_gpu(name) for name in options.gpu.split(",") if name]
    if not gpus:
        raise UsageError("'--gpu' names no GPU. 'seqgen gpus' lists them.")
    failed = 0
    for path in options.specs:
        spec = read_spec(path)
        for gpu in gpus:
            started = time.perf_counter()
            tuned = tuned_configs(gpu, options.db, options.frozen)
            compiled = compile_spec(spec, gpu, tuned)
            if options.emit:
                print(_stage(compiled, options.emit))
                continue
            folder = options.output if len(gpus) == 1 else options.output / gpu.name
            file = folder / f"{compiled.recurrence.name}.py"
            write_module(file, compiled.module.source)
            failed |= _report(compiled, file, gpu, options.dtype, started)
    return failed


def _stage(compiled: Compiled, stage: str) -> str:
    if stage == "ir":
        return f"{show_recurrence(compiled.recurrence)}\n\n{compiled.structure}"
    if stage == "plan":
        return str(compiled.plan.schedule)
    return compiled.module.source


def _report(compiled: Compiled, file: Path, gpu: Gpu, dtype: str, started: float) -> int:
    from seqgen.resource_report import HEADING, report_kernels

    name = compiled.recurrence.name
    lines = compiled.module.source.count("\n")
    print(f"{name}: family {compiled.structure.family}, schedule {compiled.schedule.name}")
    print(f"  wrote {file} ({lines} lines)")
    for note in compiled.schedule.notes:
        print(f"  Note: {note}", file=sys.stderr)

    def progress(done: int, count: int) -> None:
        if sys.stderr.isatty():
            end = "\n" if done == count else ""
            print(f"\r  compiling for {gpu.name}: {done}/{count}", end=end, file=sys.stderr)

    try:
        reports = report_kernels(load_module(file), compiled.recurrence, gpu, dtype, progress)
    except ImportError as error:
        raise SeqgenError(f"The kernels cannot be compiled here: {error}.") from error
    print(f"  compiled for {gpu.name} ({dtype}, default sizes):")
    for line in (HEADING, *(line for report in reports for line in str(report).split("\n"))):
        print(f"    {line}")
    if any(report.problem for report in reports):
        print(f"  {name} cannot run on {gpu.name} as it is.", file=sys.stderr)
        return 1
    print(f"  done in {time.perf_counter() - started:.1f} s. Use it:")
    print(f"    {_import_line(file, name)}")
    return 0


def _import_line(file: Path, name: str) -> str:
    """How Python, started where the build was, gets the operator."""
    folders = file.parent.parts
    if not file.is_absolute() and all(folder.isidentifier() for folder in folders):
        return f"from {'.'.join((*folders, name))} import {name}"
    return f"import sys; sys.path.insert(0, {str(file.parent)!r}); from {name} import {name}"
