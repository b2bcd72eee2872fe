from __future__ import annotations

import pickle

import pytest

pytest.importorskip("triton")
torch = pytest.importorskip("torch")

from seqgen.errors import SeqgenError, UsageError  # noqa: E402
from seqgen.gpu.launches import DescriptorArgument, TensorArgument, capture_launches  # noqa: E402
from tests.gpu.launchers import launch_dot, meta  # noqa: E402


def test_a_launch_is_recorded_with_all_the_kernel_would_see(kernels, no_driver):
    x = meta(1000)

    def launcher():
        grid = lambda bound: (bound["n"] // bound["BLOCK"], 2)
        kernels.copy_kernel[grid](x[8:], y=x, n=512, scale=2.0, num_warps=8, maxnreg=96)

    (launch,) = capture_launches(launcher)
    assert launch.kernel is kernels.copy_kernel
    assert launch.name == "copy_kernel"
    assert launch.grid == (4, 2, 1)
    assert launch.options == {"num_warps": 8, "maxnreg": 96}
    assert launch.arguments == {
        "x": TensorArgument("bfloat16", (992,), (1,), 8, 1000),
        "y": TensorArgument("bfloat16", (1000,), (1,), 0, 1000),
        "n": 512,
        "scale": 2.0,
        "BLOCK": 128,
    }


def test_launches_keep_their_order_and_cpu_tensors_their_data(kernels, no_driver):
    x, y = torch.arange(4.0), torch.zeros(4)

    def launcher():
        launch_dot(kernels)()
        kernels.copy_kernel[(1,)](x, y, 4, 1.0)

    assert [launch.name for launch in capture_launches(launcher)] == ["dot_kernel", "copy_kernel"]
    assert torch.equal(y, torch.zeros(4))


def test_a_host_descriptor_is_recorded(kernels, no_driver):
    from triton.tools.tensor_descriptor import TensorDescriptor

    descriptor = TensorDescriptor.from_tensor(meta(128, 64), [32, 64])
    out = meta(128, dtype="float32")
    (launch,) = capture_launches(lambda: kernels.rows_kernel[(4,)](descriptor, out, 32))
    base = TensorArgument("bfloat16", (128, 64), (64, 1), 0, 8192)
    recorded = launch.arguments["a"]
    assert recorded == DescriptorArgument(base, (128, 64), (64, 1), (32, 64), "zero")
    again = recorded.meta()
    assert (again.shape, again.strides, again.block_shape) == ([128, 64], [64, 1], [32, 64])
    assert TensorArgument.of(again.base) == base


def test_a_launch_survives_pickling(kernels):
    (launch,) = capture_launches(launch_dot(kernels, num_warps=4))
    copy = pickle.loads(pickle.dumps(launch))
    assert copy == launch


def test_the_jit_is_restored_when_the_launcher_fails(kernels):
    from triton.runtime.jit import JITFunction

    before = JITFunction.run
    with pytest.raises(ZeroDivisionError):
        capture_launches(lambda: 1 / 0)
    assert JITFunction.run is before


def test_arguments_that_do_not_fit_are_named(kernels):
    with pytest.raises(SeqgenError) as caught:
        capture_launches(lambda: kernels.copy_kernel[(1,)](meta(4)))
    assert str(caught.value) == (
        "The launch of copy_kernel does not fit it: missing a required argument: 'y'."
    )


def test_the_interpreter_has_no_kernels_to_compile(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(UsageError, match="TRITON_INTERPRET"):
        capture_launches(lambda: None)
