"""The process in which contenders meet: reads a job, appends one JSON line per result.

A job of kind ``compile`` fills Triton's disk cache; one of kind ``race`` measures. ``peers`` starts
these processes, so that a crashed kernel costs one operator and not the whole run.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import contenders, peer_tuning, protocol
from benchmarks.operator import Call, Operator
from benchmarks.operators import OPERATORS
from benchmarks.references import relative_error
from benchmarks.shapes import Shape

ACCURACY_TOKENS = 1024
WRONG = 0.05
"""A relative error above this is no rounding: the contender's time does not count."""
MODES = ("forward", "training")

Report = Callable[[Mapping[str, Any]], None]


def leaf_names(inputs: Mapping[str, Tensor]) -> list[str]:
    """The inputs that get a gradient, in order."""
    return [name for name, x in inputs.items() if x.requires_grad]


def steps_of(call: Call, inputs: Mapping[str, Tensor], do: Tensor) -> dict[str, protocol.Step]:
    """What is timed of a contender, by mode."""
    leaves = [inputs[name] for name in leaf_names(inputs)]
    return {
        "forward": lambda: call(inputs),
        "training": protocol.training_step(lambda: call(inputs), leaves, do),
    }


def cotangent(inputs: Mapping[str, Tensor]) -> Tensor:
    """A random gradient of the output, which has the shape of a token's values."""
    like = inputs["v"] if "v" in inputs else inputs["x"]
    if like.dim() == 5:
        like = like[:, :, 0]  # of the first of several steps
    generator = torch.Generator(like.device).manual_seed(1)
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)


def truth_of(operator: Operator, inputs: Mapping[str, Tensor], do: Tensor) -> list[Tensor]:
    """Output and gradients in float64, from the very numbers that the contenders get."""
    exact = {
        name: x.detach().double().requires_grad_(x.requires_grad) for name, x in inputs.items()
    }
    o = operator.truth(exact)
    grads = torch.autograd.grad(o, [exact[name] for name in leaf_names(inputs)], do.double())
    return [o.detach(), *grads]


def small(shape: Shape) -> Shape:
    """The sizes at which numbers are checked: one sequence, and few tokens for float64's sake."""
    return Shape(1, min(shape.T, ACCURACY_TOKENS), shape.H, shape.D)


def errors(
    operator: Operator, calls: Mapping[str, Call], inputs: Mapping[str, Tensor]
) -> dict[str, dict[str, float | None]]:
    """Relative errors of the output and of every gradient, by contender; None for NaN."""
    do = cotangent(inputs)
    truth = truth_of(operator, inputs, do)
    names = ["o", *("d" + name for name in leaf_names(inputs))]
    found: dict[str, dict[str, float | None]] = {}
    for contender, call in calls.items():
        try:
            results = steps_of(call, inputs, do)["training"]()
        except Exception as problem:
            found[contender] = {contenders.first_line(problem): None}
            continue
        found[contender] = {
            name: number(relative_error(mine, exact))
            for name, mine, exact in zip(names, results, truth, strict=True)
        }
    return found


def number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def worst(values: Iterable[float | None]) -> float | None:
    """The largest; None if one of them is no number."""
    listed = list(values)
    return None if None in listed else max(x for x in listed if x is not None)


class Race:
    """All contenders of one operator at one shape."""

    def __init__(
        self, operator: Operator, calls: Mapping[str, Call], shape: Shape, job: Mapping[str, Any]
    ) -> None:
        self.operator, self.calls, self.shape = operator, dict(calls), shape
        self.dtype, self.device = getattr(torch, job["dtype"]), job["device"]
        self.on_gpu = self.device != "cpu"
        self.inputs = operator.inputs(shape, self.dtype, self.device, seed=3)
        self.do = cotangent(self.inputs)
        self.results: dict[str, dict[str, Any]] = {name: {} for name in calls}
        self.steps: dict[str, dict[str, protocol.Step]] = {}

    def prepare(self) -> None:
        """First calls (here the peers tune themselves), memory, agreement with ours."""
        if self.on_gpu:
            peer_tuning.forget_choices()
            peer_tuning.shorten_timing()
        mine: tuple[Tensor, ...] | None = None
        for name, call in self.calls.items():
            start = time.perf_counter()
            steps = steps_of(call, self.inputs, self.do)
            try:
                outputs = steps["training"]()
                if self.on_gpu:
                    torch.cuda.synchronize()
            except Exception as problem:
                self.results[name]["failed"] = contenders.first_line(problem)
                continue
            self.results[name]["first_call_s"] = round(time.perf_counter() - start, 2)
            self.steps[name] = steps
            if self.on_gpu:
                extra = protocol.peak_extra_mib(steps["training"])
                self.results[name]["peak_extra_mib"] = round(extra, 1)
            if name == contenders.OURS:
                mine = outputs
            elif mine is not None:
                pairs = zip(outputs, mine, strict=True)
                apart = worst(number(relative_error(theirs, m)) for theirs, m in pairs)
                self.results[name]["apart_from_ours"] = apart

    def check(self) -> None:
        """Errors against float64, on fresh inputs."""
        calls = {name: self.calls[name] for name in self.steps}
        inputs = self.operator.inputs(small(self.shape), self.dtype, self.device, seed=2)
        for name, found in errors(self.operator, calls, inputs).items():
            largest = worst(found.values())
            self.results[name] |= {"errors": found, "worst_error": largest}
            self.results[name]["wrong"] = largest is None or largest > WRONG

    def time(self) -> None:
        """Eager and, on a GPU, as CUDA graphs."""
        clock = protocol.CudaClock() if self.on_gpu else protocol.HostClock()
        for mode in MODES:
            steps = {name: mine[mode] for name, mine in self.steps.items()}
            self._store(mode, protocol.race(steps, clock))
            if not self.on_gpu:
                continue
            graphs = {}
            for name, step in steps.items():
                try:
                    graphs[name] = protocol.captured(step)
                except Exception as problem:
                    self.results[name][mode + "_graph_failed"] = contenders.first_line(problem)
            self._store(mode + "_graph", protocol.race(graphs, clock))
            del graphs
            torch.cuda.empty_cache()

    def _store(self, key: str, timings: Mapping[str, protocol.Timing]) -> None:
        for name, timing in timings.items():
            self.results[name][key] = asdict(timing)

    def run(self, report: Report) -> None:
        """Measures; then reports one result per contender."""
        self.prepare()
        self.check()
        self.time()
        moved = least_traffic(self.inputs, self.do)
        about = {"operator": self.operator.name, "shape": str(self.shape), **moved}
        for name, result in self.results.items():
            report({**about, "contender": name, **result})


def least_traffic(inputs: Mapping[str, Tensor], do: Tensor) -> dict[str, int]:
    """Bytes that must move: forward and backward each read once what they need, write once."""
    size = {name: x.numel() * x.element_size() for name, x in inputs.items()}
    read, written = sum(size.values()), sum(size[name] for name in leaf_names(inputs))
    out = do.numel() * do.element_size()
    return {"forward_bytes": read + out, "training_bytes": 2 * read + 2 * out + written}


def run_race(job: Mapping[str, Any], report: Report) -> None:
    """Measures the job's shapes in turn, until its deadline."""
    operator = OPERATORS[job["operator"]]
    calls: dict[str, Call] = {}
    for name in contenders.names(operator):
        try:
            calls[name] = contenders.load(operator, name, job["file"])
        # Whatever keeps one contender away must not cost the others their race.
        except Exception as problem:
            why = contenders.first_line(problem)
            report({"operator": operator.name, "contender": name, "missing": why})
    if job["ceilings"]:
        report({"ceilings": protocol.ceilings()})
    for text in job["shapes"]:
        if time.time() > job["deadline"]:
            report({"operator": operator.name, "shape": text, "skipped": "no time left"})
            continue
        Race(operator, calls, Shape.parse(text), job).run(report)


def run_compile(job: Mapping[str, Any], report: Report) -> None:
    """Compiles what the race will need, for one contender and shapes with equal heads and D."""
    operator = OPERATORS[job["operator"]]
    start = time.perf_counter()
    call = contenders.load(operator, job["contender"], job["file"])
    shapes = [Shape.parse(text) for text in job["shapes"]]
    with peer_tuning.compile_only(job["threads"], *job["part"]) as counts:
        for shape in dict.fromkeys([*shapes, *map(small, shapes)]):
            inputs = operator.inputs(shape, getattr(torch, job["dtype"]), job["device"], seed=3)
            steps_of(call, inputs, cotangent(inputs))["training"]()
    seconds = round(time.perf_counter() - start, 1)
    about = {key: job[key] for key in ("operator", "contender", "shapes")}
    report({"compiled": sum(counts), "seconds": seconds, **about})


def main() -> None:
    """``python -m benchmarks.race JOB.json OUT.jsonl``."""
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    with Path(sys.argv[2]).open("a", encoding="utf-8") as out:

        def report(result: Mapping[str, Any]) -> None:
            out.write(json.dumps(result) + "\n")
            out.flush()

        {"race": run_race, "compile": run_compile}[job["kind"]](job, report)


if __name__ == "__main__":
    main()
    # All results are written. The interpreter's own end may meet autograd's threads on their way
    # out and abort ("terminate called without an active exception"): it is left out.
    sys.stdout.flush()
    os._exit(0)
