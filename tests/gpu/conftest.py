"""Three small kernels in a file of their own: Triton reads kernels from their source files."""

from __future__ import annotations

from pathlib import Path

import pytest

KERNELS = """
import os
import time

import triton
import triton.language as tl

# Only in a worker of the pool, and only when a test asks for it.
if os.environ.get("SEQGEN_TEST_WORKER") == "abort":
    os.abort()
if os.environ.get("SEQGEN_TEST_WORKER") == "hang":
    time.sleep(60)


@triton.jit
def copy_kernel(x, y, n, scale, BLOCK: tl.constexpr = 128):
    offsets = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offsets < n
    tl.store(y + offsets, tl.load(x + offsets, mask=mask) * scale, mask=mask)


@triton.jit
def dot_kernel(
    a, b, c, bias, n, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, DT: tl.constexpr
):
    m = tl.arange(0, M)
    j = tl.arange(0, N)
    k = tl.arange(0, K)
    acc = tl.zeros((M, N), tl.float32)
    for i in tl.range(0, n):
        x = tl.load(a + i * M * K + m[:, None] * K + k[None, :])
        y = tl.load(b + i * K * N + k[:, None] * N + j[None, :])
        acc = tl.dot(x, y, acc)
    if bias is not None:
        acc += tl.load(bias + j)[None, :]
    tl.store(c + m[:, None] * N + j[None, :], acc.to(DT))


@triton.jit
def rows_kernel(a, out, M: tl.constexpr):
    x = a.load([tl.program_id(0) * M, 0])
    tl.store(out + tl.program_id(0) * M + tl.arange(0, M), tl.sum(x.to(tl.float32), 1))


@triton.jit
def three_dots_kernel(a, b, c, n, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    m = tl.arange(0, M)
    j = tl.arange(0, N)
    k = tl.arange(0, K)
    p = tl.zeros((M, N), tl.float32)
    q = tl.zeros((M, N), tl.float32)
    r = tl.zeros((M, N), tl.float32)
    for i in tl.range(0, n):
        x = tl.load(a + i * M * K + m[:, None] * K + k[None, :])
        y = tl.load(b + i * K * N + k[:, None] * N + j[None, :])
        p = tl.dot(x, y, p)
        q = tl.dot(x, y + y, q)
        r = tl.dot(x + x, y, r)
    o = c + m[:, None] * N + j[None, :]
    tl.store(o, p)
    tl.store(o + M * N, q)
    tl.store(o + 2 * M * N, r)
"""


@pytest.fixture(scope="session", autouse=True)
def triton_cache(tmp_path_factory):
    """An empty Triton cache: the tests compile, and do not profit from an earlier run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="session")
def kernel_file(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("kernels") / "kernels.py"
    file.write_text(KERNELS)
    return file


@pytest.fixture(scope="session")
def kernels(kernel_file):
    pytest.importorskip("triton")
    from seqgen.runtime.loader import import_file

    return import_file(kernel_file)


@pytest.fixture
def no_driver(monkeypatch):
    """Any question to Triton's GPU driver fails, also on a machine that has one."""
    import sys

    module = sys.modules["triton.runtime.driver"]

    def refuse():
        raise AssertionError("the GPU driver was asked")

    monkeypatch.setattr(module, "_create_driver", refuse)
    monkeypatch.setattr(module.driver, "_active", None)
    monkeypatch.setattr(module.driver, "_default", None)
