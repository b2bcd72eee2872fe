"""Race seqgen's operators against existing libraries on this machine's GPU.

    python -m benchmarks.peers --op simple_gla retnet --shapes six --json out.json --report

Each operator gets a process of its own, in which all contenders run the same inputs in turn. See
``protocol`` for how times are taken, ``peer_tuning`` for how the peers are tuned and ``race`` for
how numbers are checked. A peer that is not installed is named as missing; a peer whose numbers
are wrong keeps its time, marked.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import cold_start, contenders, processes, report
from benchmarks.floors import FLOORS
from benchmarks.operator import Operator
from benchmarks.operators import OPERATORS
from benchmarks.shapes import SHAPE_SETS, Shape

DEFAULT_OPERATORS = ("simple_gla", "linear_attention", "retnet", "mamba2_ssd")
# Measured on an H200 with 16 cores.
SECONDS_PER_COMPILE = 1.1
SECONDS_PER_CONFIG = 0.02
SECONDS_PER_CONTENDER = 3.0
SECONDS_PER_PROCESS = 10.0
SECONDS_PER_COLD_START = 15.0
# Measured with FLA 0.6, whose forward and backward hold up to 30 tensors of the size of the keys in
# bf16; PyTorch's allocator and what is compiled take the rest.
BYTES_PER_CHANNEL = 80
BYTES_OF_CONTEXT = 1 << 30


@dataclass
class Run:
    """Everything found so far; written out after each result, as the run may be cut short."""

    meta: dict[str, Any]
    target: Path | None
    results: list[dict[str, Any]] = field(default_factory=list)
    compiled: list[dict[str, Any]] = field(default_factory=list)
    cold: list[dict[str, Any]] = field(default_factory=list)

    def receive(self, result: dict[str, Any]) -> None:
        """Files a result, tells it, and saves everything."""
        if "ceilings" in result:
            self.meta["ceilings"] = result["ceilings"]
        elif "compiled" in result or result.get("kind") == "compile":
            self.compiled.append(result)
        elif "cold_start_s" in result:
            self.cold.append(result)
        else:
            self.results.append(result)
        took = time.time() - self.meta["started"]
        print(f"[{took:5.0f} s] {report.progress(result)}", flush=True)
        self.write()

    def write(self) -> None:
        """Writes the JSON file, if one was asked for."""
        if self.target is not None:
            text = json.dumps(self.as_dict(), indent=1, allow_nan=False)
            self.target.write_text(text + "\n", encoding="utf-8")

    def as_dict(self) -> dict[str, Any]:
        """What the JSON file holds and ``report`` reads."""
        return {
            "meta": self.meta,
            "results": self.results,
            "compiled": self.compiled,
            "cold_start": self.cold,
        }


def minutes(text: str) -> float:
    """``90s``, ``8m`` or a plain number of seconds, in seconds."""
    factor = {"s": 1, "m": 60, "h": 3600}.get(text[-1:])
    return float(text) if factor is None else factor * float(text[:-1])


def shapes_of(words: Sequence[str]) -> list[Shape]:
    """Named sets and single shapes, each once, in order."""
    found: dict[Shape, None] = {}
    for word in words:
        found |= dict.fromkeys(SHAPE_SETS.get(word) or (Shape.parse(word),))
    return list(found)


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=(__doc__ or "").splitlines()[0]
    )
    add = parser.add_argument
    add("--op", nargs="+", default=DEFAULT_OPERATORS, choices=sorted(OPERATORS), metavar="NAME")
    add("--shapes", nargs="+", default=["one"], metavar="SET|BxTxHxD", help="six, one, sweep")
    add("--file", nargs="+", default=[], metavar="NAME=PATH", help="race this generated file")
    add("--dtype", default="bfloat16", choices=("bfloat16", "float16"))
    add("--budget", type=minutes, default=540.0, metavar="TIME", help="stop in time: 9m, 540s")
    add("--cold-start", default="none", choices=("none", "ours", "both"))
    add("--json", type=Path, metavar="FILE", help="write all numbers here")
    add(
        "--report",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="PAGE",
        help="write Markdown and PNG, beside the JSON by default",
    )
    add("--dry-run", action="store_true", help="print what would be done")
    parsed = parser.parse_args(arguments)
    if parsed.report is not None and parsed.json is None:
        parser.error("--report needs --json FILE")
    try:
        parsed.shapes = shapes_of(parsed.shapes)
        parsed.file = dict(pair.split("=", 1) for pair in parsed.file)
    except ValueError as problem:
        parser.error(str(problem))
    unknown = sorted(set(parsed.file) - set(OPERATORS))
    if unknown:
        parser.error(f"--file names no operator: {', '.join(unknown)}")
    return parsed


def groups(shapes: Sequence[Shape]) -> list[list[Shape]]:
    """Shapes that share heads and D share compiled kernels; these are compiled together."""
    found: dict[tuple[int, int], list[Shape]] = {}
    for shape in shapes:
        found.setdefault((shape.H, shape.D), []).append(shape)
    return list(found.values())


def compile_jobs(
    parsed: argparse.Namespace, files: dict[str, str | None], cores: int
) -> list[dict[str, Any]]:
    """One per operator, contender and group of shapes, or several where there are cores enough.

    The largest come first.
    """
    chosen = [OPERATORS[name] for name in parsed.op]
    tuned = len(groups(parsed.shapes)) * sum(len(operator.peers) for operator in chosen)
    shares = max(1, cores // tuned)
    jobs = []
    for name in parsed.op:
        configs = {peer.name: peer.configs for peer in OPERATORS[name].peers}
        for contender in contenders.names(OPERATORS[name]):
            if contender == contenders.OURS and files[name] is None:
                continue
            parts = 1 if contender == contenders.OURS else shares
            for group, part in itertools.product(groups(parsed.shapes), range(parts)):
                jobs.append(
                    {
                        "kind": "compile",
                        "operator": name,
                        "contender": contender,
                        "file": files[name],
                        "dtype": parsed.dtype,
                        "device": "cuda",
                        "shapes": [str(shape) for shape in group],
                        "part": (part, parts),
                        "threads": 2,
                        "configs": configs.get(contender, 5) / parts,
                    }
                )
    return sorted(jobs, key=lambda job: -job["configs"])


def at_a_time(shapes: Sequence[Shape], cores: int, memory: int) -> int:
    """How many compiling processes a GPU has room for: they make the calls, at full size.

    Args:
        shapes: what is raced.
        cores: at most one process on each.
        memory: of the GPU, in bytes.
    """
    largest = max(shape.B * shape.T * shape.H * shape.D for shape in shapes)
    return max(1, min(cores, memory // (BYTES_OF_CONTEXT + BYTES_PER_CHANNEL * largest)))


def estimate(parsed: argparse.Namespace, cores: int) -> dict[str, float]:
    """Seconds that the phases will take, roughly, from the times per unit above."""
    chosen = [OPERATORS[name] for name in parsed.op]
    configs = sum(
        job["configs"] for job in compile_jobs(parsed, dict.fromkeys(parsed.op, ""), cores)
    )
    compiling = configs * SECONDS_PER_COMPILE / max(1.0, 0.7 * cores) + 2 * SECONDS_PER_PROCESS

    def racing(operator: Operator) -> float:
        tuning = SECONDS_PER_CONFIG * sum(peer.configs for peer in operator.peers)
        return tuning + SECONDS_PER_CONTENDER * (1 + len(operator.peers))

    seconds = {"compile": compiling}
    for operator in chosen:
        seconds[operator.name] = SECONDS_PER_PROCESS + len(parsed.shapes) * racing(operator)
    if parsed.cold_start != "none":
        seconds["cold start, ours"] = SECONDS_PER_COLD_START * (len(FLOORS) + len(chosen))
    if parsed.cold_start == "both":
        seconds["cold start, peers"] = sum(
            SECONDS_PER_COLD_START + peer.configs * (SECONDS_PER_COMPILE + 0.15)
            for operator in chosen
            for peer in operator.peers
        )
    return seconds


def fit_to_budget(parsed: argparse.Namespace, cores: int) -> list[str]:
    """Drops extras until the estimate fits the budget: the peers' cold starts, then last shapes.

    Better a few whole races than many that are cut off. The first shape always stays.
    """
    dropped: list[str] = []

    def too_long() -> bool:
        return sum(estimate(parsed, cores).values()) > parsed.budget

    if parsed.cold_start == "both" and too_long():
        parsed.cold_start = "ours"
        dropped.append("cold start, peers")
    while len(parsed.shapes) > 1 and too_long():
        dropped.append(str(parsed.shapes.pop()))
    return dropped


def print_plan(parsed: argparse.Namespace, cores: int, dropped: Sequence[str]) -> None:
    for name in parsed.op:
        file = parsed.file.get(name, OPERATORS[name].spec)
        print(f"{name}: {', '.join(contenders.names(OPERATORS[name]))} ({file})")
    print("shapes (BxTxHxD):", " ".join(str(shape) for shape in parsed.shapes))
    seconds = estimate(parsed, cores)
    for phase, value in seconds.items():
        print(f"  {phase:20s} {value:6.0f} s")
    print(f"  {'all':20s} {sum(seconds.values()):6.0f} s on {cores} cores, ", end="")
    print(f"budget {parsed.budget:.0f} s")
    if dropped:
        print("left out to fit the budget:", ", ".join(dropped))


def build_ours(parsed: argparse.Namespace, run: Run) -> dict[str, str | None]:
    """Generated file by operator; None, and a result that tells why, where there is none."""
    files: dict[str, str | None] = {}
    for name in parsed.op:
        start = time.perf_counter()
        try:
            files[name] = parsed.file.get(name) or contenders.build(OPERATORS[name])
        except Exception as problem:
            files[name] = None
            run.receive({"operator": name, "broken": contenders.first_line(problem)})
        run.meta["build_s"][name] = round(time.perf_counter() - start, 2)
    return files


def about_this_machine() -> dict[str, Any]:
    """Versions and names that the numbers depend on."""
    import importlib.metadata as metadata

    import torch

    import seqgen

    meta: dict[str, Any] = {
        "seqgen": seqgen.__version__,
        "gpu": torch.cuda.get_device_name(0),
        "memory": torch.cuda.get_device_properties(0).total_memory,
        "cores": processes.cores(),
        "python": platform.python_version(),
    }
    for package in ("torch", "triton", "fla-core", "mamba-ssm"):
        try:
            meta[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            meta[package] = None
    return meta


def measure(parsed: argparse.Namespace, run: Run, folder: Path) -> None:
    """Build, compile, race, cold start: in this order, so that the races come before extras."""
    until = run.meta["started"] + parsed.budget
    files = build_ours(parsed, run)
    cores = processes.cores()
    jobs = compile_jobs(parsed, files, cores)
    enough = run.meta["started"] + 0.6 * parsed.budget
    most = at_a_time(parsed.shapes, cores, run.meta["memory"])
    processes.run_side_by_side(jobs, folder, most, enough, run.receive)
    for number, name in enumerate(parsed.op):
        job = {
            "kind": "race",
            "operator": name,
            "file": files[name],
            "dtype": parsed.dtype,
            "device": "cuda",
            "shapes": [str(shape) for shape in parsed.shapes],
            "ceilings": number == 0,
            "deadline": until - 20,
        }
        processes.run_job(job, folder, 1000 + number, until, run.receive)
    for name, contender in cold_starts(parsed, files):
        shape, file = str(parsed.shapes[0]), files.get(name)
        question = cold_start.Question(name, contender, shape, parsed.dtype, file)
        run.receive(cold_start.ask(question, until - time.time()))


def cold_starts(
    parsed: argparse.Namespace, files: dict[str, str | None]
) -> Iterator[tuple[str, str]]:
    """Operator and contender of each cold start: ours, what nobody can avoid, then the peers."""
    if parsed.cold_start == "none":
        return
    yield from ((name, contenders.OURS) for name in parsed.op if files[name] is not None)
    yield from (("", floor) for floor in FLOORS)
    if parsed.cold_start == "both":
        for name in parsed.op:
            yield from ((name, peer.name) for peer in OPERATORS[name].peers)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; returns the exit status."""
    parsed = options(arguments)
    cores = processes.cores()
    dropped = fit_to_budget(parsed, cores)
    if parsed.dry_run:
        print_plan(parsed, cores, dropped)
        return 0
    import torch

    if not torch.cuda.is_available():
        print("There is no GPU here. --dry-run shows what would be measured.", file=sys.stderr)
        return 1
    print_plan(parsed, cores, dropped)
    meta = {**about_this_machine(), "started": time.time(), "dtype": parsed.dtype, "build_s": {}}
    meta["left_out"] = dropped
    run = Run(meta, parsed.json)
    with tempfile.TemporaryDirectory() as folder:
        try:
            measure(parsed, run, Path(folder))
        finally:
            run.meta["seconds"] = round(time.time() - run.meta["started"], 1)
            run.write()
    if parsed.report is not None:
        page = parsed.json.with_suffix(".md") if parsed.report == Path() else parsed.report
        report.write([parsed.json], page)
    print(report.compact_table(run.as_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
