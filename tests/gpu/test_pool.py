from __future__ import annotations

import pytest

pytest.importorskip("triton")
pytest.importorskip("torch")

from seqgen.gpu.launches import capture_launches
from seqgen.gpu.pool import CompileFailure, compile_launches
from seqgen.gpu.resources import KernelResources
from seqgen.gpu.table import find_gpu
from tests.gpu.launchers import launch_dot


def test_a_bad_kernel_costs_only_itself_and_the_order_is_kept(kernels):
    def launcher():
        launch_dot(kernels, width=64)()
        launch_dot(kernels, width=100)()
        launch_dot(kernels, width=256)()

    seen = []
    results = compile_launches(
        capture_launches(launcher), find_gpu("a100"), workers=1, on_result=seen.append
    )
    assert [type(result) for result in results] == [
        KernelResources,
        CompileFailure,
        KernelResources,
    ]
    assert "must be a power of 2" in results[1].reason
    assert results[0].shared_bytes < results[2].shared_bytes
    assert seen == results


def test_what_is_cached_starts_no_process(kernels, monkeypatch):
    launches = capture_launches(launch_dot(kernels, n=3, width=32))
    gpu = find_gpu("a100")
    (first,) = compile_launches(launches, gpu)
    monkeypatch.setattr("seqgen.gpu.pool._Worker", None)
    (second,) = compile_launches(launches, gpu)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.binary_sha256 == first.binary_sha256


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("abort", "the compiler died with status -6."), ("hang", "the compiler took more than 1 s")],
)
def test_a_compiler_that_dies_is_a_failure(kernels, monkeypatch, fault, reason):
    launches = capture_launches(launch_dot(kernels, width=32, k=32))
    monkeypatch.setenv("SEQGEN_TEST_WORKER", fault)
    (result,) = compile_launches(launches, find_gpu("h100"), deadline=1 if fault == "hang" else 60)
    assert result == CompileFailure("dot_kernel", reason)


def test_nothing_to_compile_starts_nothing():
    assert compile_launches([], find_gpu("h100")) == []
