"""The first call compiles all kernels at once instead of one after another."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor

import torch
import triton

_COMPILED = set()
_COMPILING = threading.Lock()


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

    def compile_one(kernel, args, kwargs):
        _wait_for_triton()  # noqa: F821
        with torch.cuda.device(device), contextlib.suppress(Exception):
            compiled = type(kernel).run(kernel, *args, **{**kwargs, "warmup": True})
            compiled.run  # noqa: B018 (builds the launcher too)

    def intercept(kernel):
        def run(*args, **kwargs):
            if any(torch.is_tensor(x) and x.is_meta for x in args):
                pool.submit(compile_one, kernel, args, kwargs)
            else:  # another thread's launch
                type(kernel).run(kernel, *args, **kwargs)

        kernel.run = run

    with _COMPILING, ThreadPoolExecutor() as pool:
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
