"""``seqgen build``: write the files, then say what each kernel needs."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqgen.build import Compiled, compile_spec, read_spec
from seqgen.cli_tune import parse_sizes
from seqgen.errors import SeqgenError, UsageError
from seqgen.gpu.table import Gpu, find_gpu
from seqgen.ir.printer import show_recurrence
from seqgen.plan.plan_text import show_plan
from seqgen.runtime.cache import write_module
from seqgen.runtime.loader import load_module
from seqgen.spec.model import Spec
from seqgen.tune.workload import workload_of
from seqgen.tuned import tuned_configs

if TYPE_CHECKING:
    from seqgen.resource_report import KernelReport


def run_build(options: argparse.Namespace) -> int:
    """Build every spec for every GPU; returns the exit status."""
    gpus = [find_gpu(name) for name in options.gpu.split(",") if name]
    if not gpus:
        raise UsageError("'--gpu' names no GPU. 'seqgen gpus' lists them.")
    if options.emit and options.json:
        raise UsageError("'--emit' prints text; it does not go with '--json'.")
    sizes = parse_sizes(options.sizes) if options.sizes else {}
    specs = _read(options.specs)  # all of them before the first is built
    built = []
    for spec in specs:
        for gpu in gpus:
            started = time.perf_counter()
            tuned = tuned_configs(gpu, options.db, options.frozen)
            compiled = compile_spec(spec, gpu, tuned)
            if options.emit:
                print(_stage(compiled, options.emit).rstrip("\n"))
                continue
            workload_of(compiled.recurrence, {"B": 1, "T": 1, **sizes}, options.dtype)  # or raises
            folder = options.output if len(gpus) == 1 else options.output / gpu.name
            file = folder / f"{compiled.recurrence.name}.py"
            write_module(file, compiled.module.source)
            done = _Built(compiled, file, gpu, options.dtype, sizes, started)
            if not options.json:
                done.announce()
            done.compile()
            if not options.json:
                done.show()
            built.append(done)
    if options.json:
        print(json.dumps([done.row() for done in built], indent=1))
    return int(any(done.failed for done in built))


def _read(paths: Sequence[Path]) -> list[Spec]:
    """The specs; no two of them may give the same file."""
    origins: dict[str, Path] = {}
    specs = []
    for path in paths:
        spec = read_spec(path)
        if spec.operator in origins:
            raise UsageError(
                f"{origins[spec.operator]} and {path} both define '{spec.operator}'; "
                "one file would replace the other."
            )
        origins[spec.operator] = path
        specs.append(spec)
    return specs


def _stage(compiled: Compiled, stage: str) -> str:
    if stage == "ir":
        return f"{show_recurrence(compiled.recurrence)}\n\n{compiled.structure}"
    if stage == "plan":
        return show_plan(compiled.schedule)
    return compiled.module.source


@dataclass
class _Built:
    """One written file and what its kernels need."""

    compiled: Compiled
    file: Path
    gpu: Gpu
    dtype: str
    sizes: dict[str, int]
    """Those asked for; others are the defaults."""
    started: float
    reports: Sequence[KernelReport] = ()

    @property
    def failed(self) -> bool:
        return any(report.problem for report in self.reports)

    @property
    def later(self) -> list[str]:
        """Kernels of the file that these sizes do not launch."""
        reported = {report.kernel for report in self.reports} | {"operator"}
        kernels = [space.kernel for space in self.compiled.schedule.spaces]
        return [kernel for kernel in kernels if kernel not in reported]

    def announce(self) -> None:
        """Print what was written; notes go to stderr."""
        compiled, lines = self.compiled, self.compiled.module.source.count("\n")
        family, schedule = compiled.structure.family, compiled.schedule.name
        print(f"{compiled.recurrence.name}: family {family}, schedule {schedule}")
        print(f"  wrote {self.file} ({lines} lines)", flush=True)
        for note in compiled.schedule.notes:
            print(f"  Note: {note}", file=sys.stderr)

    def compile(self) -> None:
        """Cross-compile the kernels of the file; progress on a terminal."""
        from seqgen.resource_report import report_kernels

        started = time.perf_counter()

        def progress(done: int, count: int) -> None:
            if sys.stderr.isatty():
                left = (time.perf_counter() - started) / done * (count - done)
                eta = f", about {left:.0f} s left" if done < count else ""
                text = f"\r  compiling for {self.gpu.name}: {done}/{count}{eta:<20}"
                print(text, end="\n" if done == count else "", file=sys.stderr, flush=True)

        module, recurrence = load_module(self.file), self.compiled.recurrence
        try:
            self.reports = report_kernels(
                module, recurrence, self.gpu, self.dtype, progress, self.sizes
            )
        except ImportError as error:
            raise SeqgenError(f"The kernels cannot be compiled here: {error}.") from error

    def show(self) -> None:
        """Print what the kernels need and how to import the operator."""
        from seqgen.resource_report import report_table

        name = self.compiled.recurrence.name
        asked = "".join(f"{axis}={size} " for axis, size in self.sizes.items())
        sizes = f"{asked}and default sizes" if asked else "default sizes"
        print(f"  compiled for {self.gpu.name} ({self.dtype}, {sizes}):")
        for line in report_table(self.reports):
            print(f"    {line}", flush=True)
        if self.later:
            serial = all(kernel.startswith("recurrent_") for kernel in self.later)
            uses = " (token-serial: decode step, short sequences)" if serial else ""
            print(f"  compiled at first use: {', '.join(self.later)}{uses}")
        if self.failed:
            print(f"  {name} cannot run on {self.gpu.name} as it is.", file=sys.stderr)
            return
        print(f"  done in {time.perf_counter() - self.started:.1f} s. Use it:")
        print(f"    {_import_line(self.file, name)}")

    def row(self) -> dict[str, Any]:
        """Plain values for ``--json``."""
        return {
            "operator": self.compiled.recurrence.name,
            "file": str(self.file),
            "gpu": self.gpu.name,
            "dtype": self.dtype,
            "sizes": self.sizes,
            "family": self.compiled.structure.family,
            "schedule": self.compiled.schedule.name,
            "notes": list(self.compiled.schedule.notes),
            "spec_hash": self.compiled.module.spec_hash,
            "content_hash": self.compiled.module.content_hash,
            "kernels": [report.row() for report in self.reports],
            "compiled_at_first_use": self.later,
            "passed": not self.failed,
        }


def _import_line(file: Path, name: str) -> str:
    """How Python, started where the build was, gets the operator."""
    folders = file.parent.parts
    if not file.is_absolute() and all(folder.isidentifier() for folder in folders):
        return f"from {'.'.join((*folders, name))} import {name}"
    return f"import sys; sys.path.insert(0, {str(file.parent)!r}); from {name} import {name}"
