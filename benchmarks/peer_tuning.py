"""Triton's autotuner, on which the peers rely, made to fit into a limited device time.

The peers must not lose by it: every shape is tuned for itself (their keys often leave out T and
B, so the first shape would decide for all), over all their configurations. Only the compilation
is moved ahead and spread over the cores, and the timing of one configuration is shortened.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

WARMUP_MS = 5
REPEAT_MS = 25
"""Time per configuration: Triton's default is 25 and 100 ms."""


def _autotuners() -> list[Any]:
    from triton.runtime.autotuner import Autotuner

    # Not isinstance: it asks every object in the process for its __class__, and some react.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), Autotuner)]


def forget_choices() -> None:
    """Makes every autotuner in the process choose again at its next call."""
    for tuner in _autotuners():
        tuner.cache.clear()


def shorten_timing() -> None:
    """Lets every autotuner imported so far time a configuration for ``REPEAT_MS``."""
    from triton.testing import do_bench

    def short(call: Any, quantiles: Any) -> Any:
        return do_bench(call, warmup=WARMUP_MS, rep=REPEAT_MS, quantiles=quantiles)

    for tuner in _autotuners():
        tuner.__dict__["do_bench"] = short


@contextmanager
def compile_only(threads: int, part: int = 0, parts: int = 1) -> Iterator[list[int]]:
    """Autotuned kernels are compiled in all their configurations, and not launched.

    The compiled kernels land in Triton's disk cache, where the timed process, which makes the
    same calls with the same specialisation, finds them. Outputs inside are garbage.

    Args:
        threads: compilations at a time.
        part: which share of each kernel's configurations this process compiles.
        parts: how many processes share them.

    Yields:
        A list to which each kernel adds the number of configurations compiled here.
    """
    from triton.runtime._async_compile import AsyncCompileMode
    from triton.runtime.autotuner import Autotuner

    counts: list[int] = []
    original = Autotuner.run
    with ThreadPoolExecutor(threads) as pool:

        def run(self: Any, *args: Any, **kwargs: Any) -> None:
            self.nargs = dict(zip(self.arg_names, args, strict=False))
            every = self.prune_configs(kwargs)
            configs = every[part::parts]
            with AsyncCompileMode(pool, ignore_errors=True):
                for config in configs:
                    options = {**kwargs, **config.all_kwargs(), "warmup": True}
                    self.fn.run(*args, **options)
            counts.append(len(configs))
            # Some callers ask which configuration ran.
            self.best_config = every[0]
            self.nargs = None

        Autotuner.run = run
        try:
            yield counts
        finally:
            Autotuner.run = original
