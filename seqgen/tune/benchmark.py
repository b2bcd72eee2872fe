"""How time is measured, protocol 1: cold L2, events on the stream, medians, interleaved finals.

A ``Clock`` runs calls one after another and says how long each took; everything else here is
arithmetic on its answers, so tests bring their own.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from seqgen.tune.results import Timing

Call = Callable[[], object]
Clock = Callable[[Sequence[Call]], list[float]]
"""Microseconds of each call, in order, each from a cold L2 cache."""

PROTOCOL = 1
WARM_UP = 2
SIZING = 5
WINDOW_US = 30_000.0
MAXIMUM = 100
BLOCK = 16
"""Calls that are queued before the host waits for them."""
CYCLES_PER_US = 2000
LONGEST_SLEEP_US = 30_000.0


def timing_of(samples: Sequence[float]) -> Timing:
    """The timing that at least one sample gives."""
    ordered = sorted(samples)
    middle = median(ordered)
    last = len(ordered) - 1
    return Timing(
        len(ordered),
        middle,
        ordered[round(0.2 * last)],
        ordered[round(0.8 * last)],
        median(abs(s - middle) for s in ordered),
    )


def measure(call: Call, clock: Clock, limit_us: float | None = None) -> Timing:
    """The time of one call.

    Args:
        call: what to time; it is warmed up here (the first call may compile).
        clock: how.
        limit_us: a slower call is hopeless and not repeated for precision.
    """
    clock([call] * WARM_UP)
    samples = clock([call] * SIZING)
    first = median(samples)
    if limit_us is not None and first > limit_us:
        return timing_of(samples)
    count = min(MAXIMUM, max(SIZING, int(WINDOW_US / max(first, 1.0))))
    return timing_of(samples + clock([call] * count))


def finals(
    calls: Sequence[Call], clock: Clock, *, seconds: float, seed: int
) -> tuple[list[Timing], float]:
    """Race calls against each other in shuffled rounds.

    The first call takes part twice: by how much its two medians differ is the A/A noise floor,
    the difference that means nothing.

    Args:
        calls: the default first.
        clock: how.
        seconds: device time to spend on each call, about; 200 rounds at most, 20 at least.
        seed: of the shuffling.

    Returns:
        The timing of each call, and the noise floor as a fraction.
    """
    entrants = [*calls, calls[0]]
    clock([call for call in entrants for _ in range(WARM_UP)])
    slowest = max(clock(list(entrants)))
    rounds = min(200, max(20, int(seconds * 1e6 / max(slowest, 1.0))))
    order = list(range(len(entrants)))
    shuffle = random.Random(seed).shuffle
    samples: list[list[float]] = [[] for _ in entrants]
    for _ in range(rounds):
        shuffle(order)
        for index, us in zip(order, clock([entrants[i] for i in order]), strict=True):
            samples[index].append(us)
    timings = [timing_of(s) for s in samples]
    twin = timings.pop()
    noise = abs(twin.median_us - timings[0].median_us) / timings[0].median_us
    return timings, noise


def cuda_clock() -> Clock:
    """The clock of the current CUDA (or ROCm) device and stream."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    l2_bytes = int(getattr(properties, "L2_cache_size", 0))
    event: Any = torch.cuda.Event
    flush = torch.empty(max(2 * l2_bytes, 128 * 2**20), dtype=torch.uint8, device="cuda")
    host_us = 100.0

    def clock(calls: Sequence[Call]) -> list[float]:
        nonlocal host_us
        samples: list[float] = []
        for start in range(0, len(calls), BLOCK):
            block = calls[start : start + BLOCK]
            # The host may need longer to launch than the GPU to run. While the GPU sleeps, the
            # host gets ahead, and the events enclose nothing but the kernels.
            asleep_us = min(2 * host_us * len(block), LONGEST_SLEEP_US)
            torch.cuda._sleep(int(asleep_us * CYCLES_PER_US))  # type: ignore[no-untyped-call]
            pairs = []
            began = time.perf_counter()
            for call in block:
                begin, end = event(enable_timing=True), event(enable_timing=True)
                flush.zero_()
                begin.record()
                call()
                end.record()
                pairs.append((begin, end))
            host_us = 1e6 * (time.perf_counter() - began) / len(block)
            torch.cuda.synchronize()
            samples += [1e3 * begin.elapsed_time(end) for begin, end in pairs]
        return samples

    return clock
