"""How a duration is measured: interleaved, from a cold L2 cache, as the median of many.

The contenders take turns within every round, so that drifting clocks and temperatures meet all of
them alike. Before each repetition a buffer larger than any L2 cache is overwritten. Gradients are
asked for with ``torch.autograd.grad``: nothing is accumulated, so nobody is charged for adding
gradients of the round before.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

Step = Callable[[], Any]
FLUSH_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the median, the 20 % and 80 % quantiles, and how many were measured."""

    median: float
    low: float
    high: float
    repeats: int

    @classmethod
    def of(cls, samples: Sequence[float]) -> Timing:
        """From single measurements in ms, at least one."""
        ordered = sorted(samples)
        last = len(ordered) - 1
        low, high = ordered[round(0.2 * last)], ordered[round(0.8 * last)]
        return cls(statistics.median(ordered), low, high, len(ordered))


class Clock(Protocol):
    """Measures rounds of steps on one device."""

    def rounds(self, steps: Sequence[Step], count: int) -> list[list[float]]:
        """Milliseconds of each of ``steps``, taken ``count`` times in turn."""


class HostClock:
    """For the CPU: wall-clock time, nothing flushed."""

    def rounds(self, steps: Sequence[Step], count: int) -> list[list[float]]:
        """See ``Clock``."""
        samples: list[list[float]] = [[] for _ in steps]
        for turn in range(count):
            for index in _order(len(steps), turn):
                start = time.perf_counter()
                steps[index]()
                samples[index].append(1e3 * (time.perf_counter() - start))
        return samples


class CudaClock:
    """For a GPU: events around each step on the current stream, the L2 cache flushed before."""

    def __init__(self) -> None:
        self._flush = torch.empty(FLUSH_BYTES, dtype=torch.int8, device="cuda")

    def rounds(self, steps: Sequence[Step], count: int) -> list[list[float]]:
        """See ``Clock``."""
        pairs: list[list[tuple[torch.cuda.Event, torch.cuda.Event]]] = [[] for _ in steps]
        for turn in range(count):
            for index in _order(len(steps), turn):
                start = torch.cuda.Event(enable_timing=True)
                end = torch.cuda.Event(enable_timing=True)
                self._flush.zero_()
                start.record()
                steps[index]()
                end.record()
                pairs[index].append((start, end))
        torch.cuda.synchronize()
        return [[start.elapsed_time(end) for start, end in mine] for mine in pairs]


def _order(count: int, turn: int) -> range:
    """Forwards in even rounds and backwards in odd ones: nobody always runs behind the same."""
    return range(count) if turn % 2 == 0 else range(count - 1, -1, -1)


def race(
    steps: Mapping[str, Step], clock: Clock, *, budget_ms: float = 500, least: int = 15
) -> dict[str, Timing]:
    """Times every step in turn with the others.

    Args:
        steps: what to time, by name; each is called a few times more than it is timed.
        clock: where it runs.
        budget_ms: device time to spend on each step, roughly.
        least: repetitions even if they take longer than that; at most 200 are made.

    Returns:
        The timing of every step.
    """
    if not steps:
        return {}
    calls = list(steps.values())
    clock.rounds(calls, 2)
    slowest = max(min(samples) for samples in clock.rounds(calls, 3))
    count = min(200, max(least, int(budget_ms / max(slowest, 1e-3))))
    samples = clock.rounds(calls, count)
    return {name: Timing.of(mine) for name, mine in zip(steps, samples, strict=True)}


def training_step(call: Callable[[], Tensor], leaves: Sequence[Tensor], do: Tensor) -> Step:
    """Forward and backward; returns the output and the gradients of ``leaves``."""

    def step() -> tuple[Tensor, ...]:
        o = call()
        return (o.detach(), *torch.autograd.grad(o, leaves, do))

    return step


def captured(step: Step) -> Step:
    """The step as a CUDA graph; its replay is checked to write every result.

    Raises:
        RuntimeError: the step cannot be captured, or its replay leaves results unwritten.
    """
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = step()
    results = [x.detach() for x in (results if isinstance(results, tuple) else (results,))]
    expected = step()
    expected = expected if isinstance(expected, tuple) else (expected,)
    for result in results:
        result.fill_(float("nan"))
    graph.replay()
    torch.cuda.synchronize()
    for result, eager in zip(results, expected, strict=True):
        if int(result.isnan().sum()) != int(eager.isnan().sum()):
            raise RuntimeError("the graph's replay left results unwritten")

    def replay() -> None:
        graph.replay()

    # The graph owns the memory of the results: both must live as long as the replay.
    replay.keep = (graph, results)  # type: ignore[attr-defined]
    return replay


def peak_extra_mib(step: Step) -> float:
    """MiB that the step needs at its worst moment beyond what is allocated before it."""
    gc.collect()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def ceilings() -> dict[str, float]:
    """What this GPU reaches today: a large copy in TB/s (read and written), bf16 TFLOP/s."""
    clock = CudaClock()
    source = torch.empty(2**30, dtype=torch.int32, device="cuda").random_()
    target = torch.empty_like(source)
    copy = race({"copy": lambda: target.copy_(source)}, clock, budget_ms=100)["copy"]
    moved = 2 * source.numel() * source.element_size()
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))
    product = race({"product": lambda: a @ b}, clock, budget_ms=100)["product"]
    return {
        "copy_tb_per_s": moved / copy.median * 1e-9,
        "bf16_tflop_per_s": 2 * 8192**3 / product.median * 1e-9,
    }
