"""The command line. Thin: it reads options, calls one function, prints.

Exit status 0 done, 1 failed, 2 the spec or the arguments are wrong.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqgen import __version__
from seqgen.errors import SeqgenError

if TYPE_CHECKING:
    from seqgen.render.module import GeneratedModule


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    try:
        status = int(options.run(options) or 0)
        sys.stdout.flush()
        return status
    except SeqgenError as error:
        if options.debug:
            raise
        print(f"seqgen: {error}" if error.exit_status == 1 else error, file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        # Python flushes once more at exit; there must be something to flush to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("seqgen: interrupted.", file=sys.stderr)
        return 1
    except RecursionError:
        print("seqgen: the spec is nested too deeply.", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="seqgen", description="From the equations of a recurrence to tuned Triton kernels."
    )
    parser.add_argument("--version", action="version", version=f"seqgen {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")

    build = commands.add_parser("build", help="compile specs to one Python file each")
    build.add_argument("specs", nargs="+", type=Path, metavar="SPEC")
    build.add_argument("--gpu", default="auto", help="GPU name(s), comma-separated (seqgen gpus)")
    build.add_argument("-o", "--output", type=Path, default=Path("seqgen_ops"), metavar="DIR")
    build.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), default="bf16")
    build.add_argument("--sizes", metavar="K64,V64", help="sizes to compile for, to see what fits")
    build.add_argument("--emit", choices=("ir", "plan", "source"), help="print a stage, write none")
    build.add_argument("--frozen", action="store_true", help="fail where nothing was tuned")
    build.add_argument("--db", metavar="PATH|URL", help="tuning store")
    build.add_argument("--json", action="store_true", help="print the report for a program")
    build.set_defaults(run=_build)

    check = commands.add_parser("check", help="read specs and report mistakes")
    check.add_argument("specs", nargs="+", type=Path, metavar="SPEC")
    check.add_argument("--built", type=Path, metavar="DIR", help="are the files in DIR up to date?")
    check.set_defaults(run=_check)

    explain = commands.add_parser("explain", help="what the compiler makes of a spec, and why")
    explain.add_argument("spec", type=Path, metavar="SPEC")
    explain.add_argument("--gpu", default="h100")
    explain.add_argument("--json", action="store_true")
    explain.set_defaults(run=_explain)

    gpus = commands.add_parser("gpus", help="GPUs that --gpu knows")
    gpus.set_defaults(run=_gpus)

    verify = commands.add_parser("verify", help="compare kernels with the float64 reference")
    verify.add_argument("source", type=Path, metavar="SPEC|FILE")
    verify.add_argument("--dtype", choices=("bf16", "fp16", "fp32"), action="append")
    verify.add_argument("--json", action="store_true")
    verify.set_defaults(run=_verify)

    from seqgen.cli_db import add_db_commands
    from seqgen.cli_tune import add_tune_command

    add_tune_command(commands)
    add_db_commands(commands)
    return parser


def _build(options: argparse.Namespace) -> int:
    from seqgen.build_command import run_build

    return run_build(options)


def _check(options: argparse.Namespace) -> int:
    from seqgen.build import compile_spec, read_spec
    from seqgen.gpu.table import find_gpu
    from seqgen.plan.schedule_text import show_schedule

    failed = 0
    gpu = find_gpu("h100")  # any would do: no mistake in a spec depends on it
    for path in options.specs:
        try:
            compiled = compile_spec(read_spec(path), gpu)
        except SeqgenError as error:
            if options.debug:
                raise
            print(error, file=sys.stderr)
            failed = max(failed, error.exit_status)
        else:
            print(f"{path}: correct, family {compiled.structure.family}")
            for line in show_schedule(compiled.structure, compiled.schedule):
                print(f"  {line}")
            if options.built is not None:
                failed = max(failed, _check_built(compiled.module, options.built))
    return failed


def _check_built(module: GeneratedModule, folder: Path) -> int:
    """Whether the file in ``folder`` was built from the spec as it is now; the exit status."""
    from seqgen.runtime.cache import check_fresh

    file = folder / f"{module.name}.py"
    reason = check_fresh(file, module.spec_hash)
    if reason is None:
        print(f"{file}: up to date")
        return 0
    print(f"{file}: {reason}. Run 'seqgen build'.", file=sys.stderr)
    return 1


def _explain(options: argparse.Namespace) -> int:
    from seqgen.build import read_spec
    from seqgen.gpu.table import find_gpu
    from seqgen.plan.explain import explain

    print(explain(read_spec(options.spec), find_gpu(options.gpu), as_json=options.json))
    return 0


def _gpus(_: argparse.Namespace) -> int:
    from seqgen.gpu.table import describe_table

    print(describe_table())
    return 0


def _verify(options: argparse.Namespace) -> int:
    from seqgen.verify import run_verify

    return run_verify(options.source, options.dtype, options.json)
