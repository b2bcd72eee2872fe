"""The first call compiles all kernels of an operator: here for a GPU that is not there."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import pytest

triton = pytest.importorskip("triton")
torch = pytest.importorskip("torch")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from seqgen.build import compile_spec, read_spec  # noqa: E402
from seqgen.gpu.table import find_gpu  # noqa: E402
from seqgen.runtime.loader import import_file  # noqa: E402

EXAMPLES = Path(__file__).parents[2] / "examples"


class OnGpu(torch.Tensor):
    """A tensor without memory that says that it is on a GPU; what is made of it does not."""

    __torch_function__ = torch._C._disabled_torch_function_impl

    @property
    def device(self):
        return torch.device("cuda", 0)


class Launcher:
    """Triton's launcher of a kernel; notes what it was made for."""

    made: ClassVar[list[tuple[str, bool]]] = []

    def __init__(self, source, kernel):
        Launcher.made.append((source.name, hasattr(kernel, "shared")))


class Driver:
    """Compiles for an H100, has nothing to run on."""

    launcher_cls = Launcher

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0


@pytest.fixture
def simple_gla(tmp_path, monkeypatch):
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(triton.runtime.driver, "_active", Driver())
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(Launcher, "made", [])
    compiled = compile_spec(read_spec(EXAMPLES / "simple_gla.yaml"), find_gpu("h100"))
    file = tmp_path / "simple_gla.py"
    # A file with the same text would be the same module, which has compiled in another test.
    file.write_text(f"{compiled.module.source}# {tmp_path}\n")
    return import_file(file)


def inputs(T=128, keys=64):
    def tensor(*shape, dtype=torch.bfloat16):
        return torch.empty(2, T, 4, *shape, dtype=dtype, device="meta").as_subclass(OnGpu)

    return tensor(64), tensor(keys), tensor(64), tensor(dtype=torch.float32), None, None, False


@pytest.fixture
def compiled(monkeypatch):
    """Names of the kernels that are compiled."""
    names = []
    monkeypatch.setattr(
        triton.knobs.compilation, "listener", lambda *, src, **_: names.append(src.name)
    )
    return names


def test_compiles_each_kernel_and_its_launcher_once(simple_gla, compiled):
    simple_gla._compile_ahead(inputs(), True)
    simple_gla._compile_ahead(inputs(), True)
    expected = {"linear_state", "linear_output", "linear_states", "linear_backward"}
    expected |= {"linear_rows", "linear_rows_backward"}
    # Rows are asked for by forward and by backward.
    assert sorted(set(compiled)) == sorted(f"{name}_kernel" for name in expected)
    early = [name for name, real in Launcher.made if not real]
    assert sorted(early) == sorted(compiled)
    assert simple_gla.linear_state_kernel.ASTSource is ASTSource


@pytest.mark.parametrize("first", [inputs(T=4), inputs(keys=32)], ids=["short", "wrong"])
def test_another_kind_of_call_before_changes_nothing(simple_gla, compiled, first):
    simple_gla._compile_ahead(first, False)
    assert not any(name.startswith("linear_output") for name in compiled)
    simple_gla._compile_ahead(inputs(), False)
    assert "linear_output_kernel" in compiled
    count = len(compiled)
    simple_gla._compile_ahead(inputs(T=144), False)  # the same kernels
    assert len(compiled) == count


def test_a_launch_of_another_thread_meanwhile_compiles_too(simple_gla):
    simple_gla._JOB.parsed.clear()
    kernel = simple_gla.linear_slots_kernel
    kernel.device_caches[0]
    kernel.ASTSource = simple_gla._Source
    counts = [torch.empty(4, dtype=torch.int32, device="meta") for _ in range(3)]
    compiled = kernel.run(*counts, 300, 3, 8, BLOCK=64, grid=(1,), warmup=True)
    assert "ptx" in compiled.asm


def test_a_kernel_that_does_not_compile_is_left_to_its_launch(simple_gla, monkeypatch):
    def fails(*args, **kwargs):
        raise RuntimeError("no")

    monkeypatch.setattr(ASTSource, "make_ir", fails)
    simple_gla._compile_ahead(inputs(), True)
    assert simple_gla.linear_state_kernel.ASTSource is ASTSource


LOOK_AHEAD = """
import sys
from pathlib import Path

from seqgen.build import compile_spec, read_spec
from seqgen.gpu.launches import capture_launches
from seqgen.gpu.table import find_gpu
from seqgen.resource_report import run_on_meta
from seqgen.runtime.loader import import_file

spec, file = sys.argv[1:]
compiled = compile_spec(read_spec(Path(spec)), find_gpu("h100"))
Path(file).write_text(compiled.module.source)
module = import_file(Path(file))
before = set(sys.modules)
launches = capture_launches(lambda: run_on_meta(module, compiled.recurrence, "bf16"))
print(len(launches), [name for name in set(sys.modules) - before if name.startswith("sympy")])
"""


@pytest.mark.parametrize("name", ["gla", "kda", "delta_rule", "gated_delta_rule", "rwkv7"])
def test_looking_ahead_imports_nothing_slow(tmp_path, name):
    """For the shape of most results without memory PyTorch imports sympy: half a second."""
    arguments = [str(EXAMPLES / f"{name}.yaml"), str(tmp_path / f"{name}.py")]
    done = subprocess.run(
        [sys.executable, "-c", LOOK_AHEAD, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    count, imported = done.stdout.split(maxsplit=1)
    assert int(count) > 5
    assert imported.strip() == "[]"
