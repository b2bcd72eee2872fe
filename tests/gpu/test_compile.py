from __future__ import annotations

import pytest

triton = pytest.importorskip("triton")
torch = pytest.importorskip("torch")

from triton.backends.compiler import GPUTarget  # noqa: E402

from seqgen.gpu.compile import CompileError, compile_launch, is_cached, specialise  # noqa: E402
from seqgen.gpu.launches import capture_launches  # noqa: E402
from seqgen.gpu.resources import launchable  # noqa: E402
from seqgen.gpu.table import find_gpu  # noqa: E402
from tests.gpu.launchers import launch_dot, meta  # noqa: E402


class OfflineDriver:
    """What the JIT asks of a driver when it only compiles."""

    def __init__(self, target):
        self.target = target

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return f"offline {self.target}"

    def get_current_stream(self, device):
        return 0


def launch_odd(kernels):
    """Every kind of specialisation: unaligned, 1, divisible, not divisible, float, None."""
    x, bias = meta(3, 64, 64), meta(128, dtype="float32")

    def launch():
        kernels.copy_kernel[(1,)](x[0], x.view(-1)[1:], 1, 0.5, BLOCK=64, num_warps=2)
        kernels.copy_kernel[(1,)](x, x, 48, 1, num_warps=4, num_stages=2)
        launch_dot(kernels, n=7, bias=bias, maxnreg=128)()

    return launch


def launch_rows(kernels):
    from triton.tools.tensor_descriptor import TensorDescriptor

    descriptor = TensorDescriptor.from_tensor(meta(128, 64), [32, 64])
    out = meta(128, dtype="float32")
    return lambda: kernels.rows_kernel[(4,)](descriptor, out, 32)


@pytest.mark.parametrize("name", ["h100", "mi300x"])
def test_the_kernel_is_the_one_that_the_jit_compiles(kernels, monkeypatch, name):
    gpu = find_gpu(name)
    target = GPUTarget(gpu.backend, gpu.arch, gpu.warp_size)
    monkeypatch.setattr(triton.runtime.driver, "_active", OfflineDriver(target))

    def both():
        launch_odd(kernels)()
        launch_rows(kernels)()

    launches = capture_launches(both)
    if name == "mi300x":
        launches = [launch for launch in launches if "maxnreg" not in launch.options]
    assert len(launches) >= 3
    for launch in launches:
        arguments = {
            key: value.meta() if hasattr(value, "meta") else value
            for key, value in launch.arguments.items()
        }
        by_jit = launch.kernel.run(grid=(1,), warmup=True, **arguments, **launch.options)
        source, options = specialise(launch, target)
        assert triton.compile(source, target=target, options=options).hash == by_jit.hash
        # The JIT wrote no assembler report; ours is there all the same, and then kept.
        first = compile_launch(launch, gpu)
        again = compile_launch(launch, gpu)
        assert again.from_cache
        assert again.registers == first.registers > 0


# Registers and spills differ by Triton version; shared memory and warps follow from the tiles:
# three stages of (64 x 64 + 64 x 128) bf16 on sm_90 and sm_100, two on the others.
@pytest.mark.parametrize(
    ("name", "shared"),
    [("a100", 49152), ("rtx4090", 49152), ("h100", 73728), ("b200", 73728), ("mi300x", 49152)],
)
def test_a_dot_compiles_for_every_architecture(kernels, no_driver, name, shared):
    gpu = find_gpu(name)
    (launch,) = capture_launches(launch_dot(kernels, num_warps=4, num_stages=3))
    resources = compile_launch(launch, gpu)
    assert resources.target == f"{gpu.backend}:{gpu.arch}"
    assert resources.num_warps == 4
    assert 32 <= resources.registers <= 255
    assert (resources.spill_store_bytes, resources.spill_load_bytes) == (0, 0)
    assert shared <= resources.shared_bytes < shared + 1024
    # The accumulator of 128 fp32 columns lies in tensor memory where there is one.
    assert resources.tmem_columns == (128 if name == "b200" else 0)
    assert len(resources.binary_sha256) == 64
    assert launchable(resources, gpu) is None


def test_a_second_build_takes_all_from_the_cache(kernels):
    gpu = find_gpu("h200")
    (launch,) = capture_launches(launch_dot(kernels, n=16, width=64))
    assert not is_cached(launch, gpu)
    first = compile_launch(launch, gpu)
    assert is_cached(launch, gpu)
    assert not is_cached(launch, find_gpu("a100"))
    second = compile_launch(launch, gpu)
    assert (first.from_cache, second.from_cache) == (False, True)
    assert second.binary_sha256 == first.binary_sha256
    assert second.compile_seconds < first.compile_seconds / 5
    assert second.registers == first.registers


def test_too_few_registers_spill_and_are_counted(kernels):
    gpu = find_gpu("a100")
    (launch,) = capture_launches(launch_dot(kernels, width=256, num_warps=4, maxnreg=64))
    resources = compile_launch(launch, gpu)
    assert resources.registers <= 64
    assert resources.spill_store_bytes > 512
    assert resources.spill_load_bytes > 512
    assert f"spills {resources.spill_store_bytes} B out" in str(resources)


def test_too_much_shared_memory_is_found_without_a_gpu(kernels):
    gpu = find_gpu("rtx4090")
    (launch,) = capture_launches(launch_dot(kernels, width=256, num_stages=6, num_warps=8))
    resources = compile_launch(launch, gpu)
    assert resources.shared_bytes > 101376
    assert launchable(resources, gpu) == (
        f"It needs {resources.shared_bytes} bytes of shared memory; rtx4090 has 101376 for a block."
    )


def test_too_much_tensor_memory_compiles_to_a_trap(kernels):
    gpu = find_gpu("b200")
    # Three accumulators of 256 columns, in 512.
    tensors = meta(8, 128, 32), meta(8, 32, 256), meta(3, 128, 256, dtype="float32")
    (launch,) = capture_launches(
        lambda: kernels.three_dots_kernel[(1,)](*tensors, 8, 128, 256, 32, num_stages=1)
    )
    resources = compile_launch(launch, gpu)
    assert resources.trap_only
    assert resources.tmem_columns >= 768
    assert launchable(resources, gpu) == (
        f"It needs {resources.tmem_columns} columns of tensor memory; b200 has 512."
    )


def test_a_front_end_error_names_kernel_gpu_and_reason(kernels):
    (launch,) = capture_launches(launch_dot(kernels, width=100))
    with pytest.raises(CompileError) as caught:
        compile_launch(launch, find_gpu("h100"))
    message = str(caught.value)
    assert message.startswith("dot_kernel does not compile for h100: at ")
    assert message.endswith("arange's range must be a power of 2")


def test_an_assembler_error_is_given_in_its_words(kernels):
    (launch,) = capture_launches(launch_dot(kernels, width=256, num_warps=4, maxnreg=64))
    with pytest.raises(CompileError) as caught:
        compile_launch(launch, find_gpu("h100"))
    assert "Insufficient registers (64)" in str(caught.value)


def test_an_option_that_the_backend_lacks_is_an_error(kernels):
    (launch,) = capture_launches(launch_dot(kernels, maxnreg=64))
    with pytest.raises(CompileError, match="maxnreg"):
        compile_launch(launch, find_gpu("mi300x"))
