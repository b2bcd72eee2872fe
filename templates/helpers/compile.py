"""The first call compiles all kernels at once instead of one after another."""

import contextlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
import triton

_COMPILED = set()
_COMPILING = threading.Lock()


def _length(kernel):
    """Characters of a kernel and of the functions it calls: the longest compiles longest."""
    reached = [kernel]
    for function in reached:
        called = (globals().get(name) for name in function.fn.__code__.co_names)
        kernels = (value for value in called if isinstance(value, triton.JITFunction))
        reached += [value for value in kernels if value not in reached]
    return sum(len(function.src) for function in reached)


def _compile_ahead(inputs, with_gradients):
    """Compiles, in threads, what the operator's first call is about to launch for ``inputs``.

    The launchers run on tensors without memory; a launch of such tensors becomes a job. What
    fails here is left to the real launch to report.
    """
    device = inputs[0].device
    key = (device, inputs[0].dtype, with_gradients)
    if key in _COMPILED or device.type != "cuda":
        return
    given = [torch.empty_like(x, device="meta") if torch.is_tensor(x) else x for x in inputs]
    kernels = [value for value in globals().values() if isinstance(value, triton.JITFunction)]
    jobs = []

    def intercept(kernel):
        def run(*args, **kwargs):
            if any(torch.is_tensor(x) and x.is_meta for x in args):
                jobs.append((kernel, args, {**kwargs, "warmup": True}))
            else:  # another thread's launch
                type(kernel).run(kernel, *args, **kwargs)

        kernel.run = run

    def compile_one(job):
        kernel, args, kwargs = job
        with torch.cuda.device(device), contextlib.suppress(Exception):
            compiled = type(kernel).run(kernel, *args, **kwargs)
            compiled.run  # noqa: B018 (builds the launcher too)

    with _COMPILING:
        if key in _COMPILED:
            return
        _COMPILED.add(key)
        for kernel in kernels:
            intercept(kernel)
        try:
            kept = [] if with_gradients else None
            results = _run_forward(*given, kept)  # noqa: F821
            if with_gradients:
                finals = len(SPEC["states"])  # noqa: F821
                cotangents = *results[:-finals], *(None,) * finals
                _run_backward(*given[:-1], *cotangents, kept)  # noqa: F821
        finally:
            for kernel in kernels:
                del kernel.run
        _wait_for_triton()  # noqa: F821
        # The longest kernel is ready last: it goes first. The first part of each compilation is
        # Python, of which one thread runs at a time: in turns all of them would be late.
        jobs.sort(key=lambda job: _length(job[0]), reverse=True)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(0.2)
        try:
            with ThreadPoolExecutor() as pool:
                pool.map(compile_one, jobs)
        finally:
            sys.setswitchinterval(interval)
