"""What Triton does before its first compilation, begun while PyTorch is still being imported."""

import contextlib
import os
import sys
import threading

_PREPARING = "seqgen prepares Triton"  # the name of the threads, for all generated files


def _hash_triton():
    """The hash of Triton's own library, which Triton keeps: part of the key of every kernel.

    It releases the interpreter lock for each of 400 MiB. Beside a thread that imports, getting it
    back takes the switch interval each time: 5 s in all at the usual 5 ms.
    """
    from triton.runtime import cache

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        cache.triton_key()
    finally:
        sys.setswitchinterval(interval)


def _build_driver():
    """Triton's interface to the CUDA driver, a small C module. It asks nothing of the GPU."""
    from triton.backends.nvidia.driver import CudaUtils

    if not hasattr(CudaUtils, "instance"):
        CudaUtils()


def _prepare_triton():
    """Starts both in threads, where there is a GPU and nobody has begun yet."""

    def quietly(step):
        with contextlib.suppress(Exception):  # Triton does it again when needed, and says why not
            step()

    devices = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
    running = any(thread.name == _PREPARING for thread in threading.enumerate())
    if _INTERPRET or running or not any(map(os.path.exists, devices)):  # noqa: F821
        return
    for step in (_hash_triton, _build_driver):
        threading.Thread(target=quietly, args=(step,), name=_PREPARING, daemon=True).start()


def _wait_for_triton():
    """Until the threads have ended: threads that compile would each do the same work again."""
    for thread in threading.enumerate():
        if thread.name == _PREPARING:
            thread.join()


_prepare_triton()
