"""The first call compiles all kernels at once instead of one after another.

``_compile_ahead`` runs the launchers on tensors without memory, notes what they would launch,
and compiles that in threads, the longest kernel first, so that the launches after it find all
kernels ready. A thread starts when the one before has left Python (``_Source``).
"""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch
import triton
from triton.compiler import ASTSource

_COMPILED = set()
_COMPILING = threading.Lock()


class _Job(threading.local):
    """What a thread compiles: ``parsed`` once its part in Python is over."""

    parsed = threading.Event()  # nobody waits for a thread that launches meanwhile


_JOB = _Job()


class _Source(ASTSource):
    """A kernel that is compiled beside others.

    The first part of a compilation is Python, of which one thread runs at a time: in turns all of
    them would be late. So one after another; the C compiler meanwhile builds what launches it.
    """

    def make_ir(self, *args, **kwargs):
        self.launcher = threading.Thread(target=_build_launcher, args=(self,))
        self.launcher.start()
        try:
            return super().make_ir(*args, **kwargs)
        finally:
            _JOB.parsed.set()


def _build_launcher(source):
    """Puts the C module that launches a kernel into Triton's cache, where Triton looks for it."""
    descriptors = [x for x in source.signature.values() if str(x).startswith("tensordesc")]
    kernel = SimpleNamespace(tensordesc_meta=[{} for _ in descriptors])
    with contextlib.suppress(Exception):  # the real launcher says why not, and asks for more
        triton.runtime.driver.active.launcher_cls(source, kernel)


def _length(kernel):
    """Characters of a kernel and of the functions it calls: the longest compiles longest."""
    reached = [kernel]
    for function in reached:
        called = (globals().get(name) for name in function.fn.__code__.co_names)
        kernels = (value for value in called if isinstance(value, triton.JITFunction))
        reached += [value for value in kernels if value not in reached]
    return sum(len(function.src) for function in reached)


def _kind(inputs):
    """What of ``inputs`` decides which kernels are launched: a length counts by its magnitude."""
    shaped = ((x.dtype, x.shape[2:]) if torch.is_tensor(x) else x for x in inputs)
    return inputs[0].device, inputs[0].shape[1].bit_length(), *shaped


def _compile_ahead(inputs, with_gradients):
    """Compiles, in threads, what a call of a new kind is about to launch for ``inputs``.

    A launch of tensors without memory becomes a job. What fails here is left to the real launch
    to report.
    """
    device = inputs[0].device
    if device.type != "cuda":
        return
    key = (with_gradients, *_kind(inputs))
    if key in _COMPILED:
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

    def compile_one(job, parsed):
        kernel, args, kwargs = job
        _JOB.parsed = parsed
        with contextlib.suppress(Exception), torch.cuda.device(device):
            compiled = type(kernel).run(kernel, *args, **kwargs)
            if hasattr(compiled.src, "launcher"):
                compiled.src.launcher.join()
            compiled.run  # noqa: B018 (loads it)
        parsed.set()

    with _COMPILING, torch.cuda.device(device):
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
        except Exception:
            return
        finally:
            for kernel in kernels:
                del kernel.run
        _wait_for_triton()  # noqa: F821
        jobs.sort(key=lambda job: _length(job[0]), reverse=True)  # the longest is ready last
        try:
            with ThreadPoolExecutor() as pool:
                for job in jobs:
                    kernel, parsed = job[0], threading.Event()
                    kernel.device_caches[device.index]  # sets what the next line replaces
                    kernel.ASTSource = _Source
                    pool.submit(compile_one, job, parsed)
                    parsed.wait()
        finally:
            for kernel, *_ in jobs:
                kernel.ASTSource = ASTSource
