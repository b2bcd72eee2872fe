"""Compiling a peer's configurations ahead, for a GPU that is not there."""

import pytest
import torch

triton = pytest.importorskip("triton")
tl = triton.language

if triton.knobs.runtime.interpret:
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from benchmarks import peer_tuning  # noqa: E402


@triton.autotune([triton.Config({"BLOCK": block}, num_warps=1) for block in (32, 64)], key=["n"])
@triton.heuristics({"EVEN": lambda args: args["n"] % args["BLOCK"] == 0})
@triton.jit
def double_kernel(x, n, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if EVEN:
        tl.store(x + index, 2 * tl.load(x + index))
    else:
        tl.store(x + index, 2 * tl.load(x + index, mask=index < n), mask=index < n)


class NoDevice:
    """A driver that names a target and can do nothing else."""

    def get_current_target(self):
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def hopper(monkeypatch, tmp_path):
    from triton.runtime.driver import driver

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(driver, "_active", NoDevice())
    double_kernel.fn.fn.device_caches.clear()
    return tmp_path


def test_all_configurations_are_compiled_and_none_is_launched(hopper):
    x = torch.ones(100)
    with peer_tuning.compile_only(threads=2) as counts:
        double_kernel[(4,)](x, 100)
    assert counts == [2]
    assert len(list(hopper.glob("*/double_kernel.cubin"))) == 2
    assert torch.equal(x, torch.ones(100))
    assert not double_kernel.cache
    assert triton.runtime.autotuner.Autotuner.run.__module__ == "triton.runtime.autotuner"


def test_processes_share_the_configurations(hopper):
    x = torch.ones(200)
    for part in range(2):
        with peer_tuning.compile_only(2, part, 2) as counts:
            double_kernel[(4,)](x, 200)
        assert counts == [1]
        assert len(list(hopper.glob("*/double_kernel.cubin"))) == 1 + part


def test_choices_are_forgotten_and_timing_is_shortened(monkeypatch):
    double_kernel.cache["key"] = double_kernel.configs[0]
    peer_tuning.forget_choices()
    assert not double_kernel.cache
    asked = {}
    monkeypatch.setattr(triton.testing, "do_bench", lambda call, **how: asked.update(how))
    peer_tuning.shorten_timing()
    double_kernel.do_bench(lambda: None, quantiles=(0.5,))
    assert asked == {"warmup": 5, "rep": 25, "quantiles": (0.5,)}
    del double_kernel.__dict__["do_bench"]
