"""``seqgen tune``: measure configurations on the GPU that is here and keep the winners."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from seqgen.errors import UsageError

if TYPE_CHECKING:
    from seqgen.gpu.table import Gpu
    from seqgen.plan.knobs import KernelSpace
    from seqgen.tune.results import KernelTask

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

DEFAULT_SHAPE = "B2,T16384"


def add_tune_command(commands: Commands) -> None:
    """Add ``tune``."""
    tune = commands.add_parser("tune", help="find the best configurations on this GPU")
    tune.add_argument("specs", nargs="+", type=Path, metavar="SPEC")
    tune.add_argument(
        "--shapes",
        nargs="+",
        default=[DEFAULT_SHAPE],
        metavar="SHAPE",
        help=f"sizes of B, T and axes, e.g. B2,T16384,H16,K128 (default {DEFAULT_SHAPE})",
    )
    tune.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    tune.add_argument("--budget", default="10m", help="time for all of it: 90s, 10m, 2h")
    tune.add_argument("--seed", type=int, default=0)
    tune.add_argument("--resume", action="store_true", help="keep what earlier runs measured")
    tune.add_argument("--dry-run", action="store_true", help="print the search spaces only")
    tune.add_argument("--db", metavar="PATH|URL", help="tuning store")
    tune.set_defaults(run=_tune)


def parse_shape(text: str) -> dict[str, int]:
    """``B2,T16384,K128`` as sizes by name, with those for B and T if they are left out.

    Raises:
        UsageError: not of that form.
    """
    return {"B": 2, "T": 16384, **parse_sizes(text)}


def parse_sizes(text: str) -> dict[str, int]:
    """``B2,T16384,K128`` as sizes by name.

    Raises:
        UsageError: not of that form.
    """
    sizes = {}
    for part in text.split(","):
        match = re.fullmatch(r"([A-Za-z_]\w*?)=?(\d+)", part.strip())
        if match is None:
            raise UsageError(f"'{part}' in shape '{text}' is no size; write B2,T16384,K128.")
        sizes[match[1]] = int(match[2])
    return sizes


def parse_budget(text: str) -> float:
    """Seconds of ``90s``, ``10m``, ``2h`` or a plain number of seconds.

    Raises:
        UsageError: not of that form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if match is None or float(match[1]) <= 0:
        raise UsageError(f"'{text}' is no budget; write 90s, 10m or 2h.")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _gpu_here() -> Gpu:
    """The GPU to measure on.

    Raises:
        UsageError: there is none.
    """
    from seqgen.gpu.detect import detect_gpu

    try:
        return detect_gpu()
    except UsageError:
        raise UsageError(
            "Tuning measures on the GPU of this machine, and torch sees none here. Run it where "
            "the GPU is; '--dry-run' prints the search spaces anywhere."
        ) from None


def _tune(options: argparse.Namespace) -> int:
    from seqgen.build import compile_spec, read_spec
    from seqgen.gpu.table import find_gpu
    from seqgen.runtime.cache import write_module
    from seqgen.store.store import TuningStore
    from seqgen.tune.kernel_tuner import Options
    from seqgen.tune.tuner import tune_operator
    from seqgen.tune.workload import workload_of

    shapes = [parse_shape(text) for text in options.shapes]
    budget = parse_budget(options.budget)
    specs = [read_spec(path) for path in options.specs]
    gpu = find_gpu("h100") if options.dry_run else _gpu_here()
    jobs = []
    for spec in specs:
        compiled = compile_spec(spec, gpu)
        for shape in shapes:
            jobs.append((compiled, workload_of(compiled.recurrence, shape, options.dtype)))
    if options.dry_run:
        for compiled, workload in jobs:
            print(f"{workload.op} at {dict(workload.sizes)}, {workload.dtype}:")
            for space in compiled.schedule.spaces:
                count = sum(1 for _ in space.configs())
                knobs = ", ".join(f"{k.name} {list(k.values)}" for k in space.knobs)
                print(f"  {space.kernel}: {count} configurations ({knobs})")
        return 0
    failed = 0
    with TuningStore.open(options.db, must_persist=True) as store:
        for number, (compiled, workload) in enumerate(jobs):
            print(
                f"[{number + 1}/{len(jobs)}] {workload.op} {dict(workload.sizes)} on {gpu}",
                file=sys.stderr,
            )
            spaces = {space.kernel: space for space in compiled.schedule.spaces}

            def space_of(
                kernel: str, _: KernelTask, known: dict[str, KernelSpace] = spaces
            ) -> KernelSpace | None:
                return known.get(kernel)

            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / f"{workload.op}.py"
                write_module(file, compiled.module.source)
                results = tune_operator(
                    file,
                    workload,
                    compiled.module.spec_hash,
                    gpu,
                    space_of,
                    store,
                    Options(budget / len(jobs), options.resume, options.seed),
                )
            failed += sum(result.winner is None for result in results)
        print(f"Recorded in {store.name}. 'seqgen build' finds the winners there.")
    return 1 if failed else 0
