"""Default configurations fit the GPU that a file is built for: cross-compiled, nothing runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("triton")

from seqgen.build import compile_spec, read_spec
from seqgen.gpu import pool
from seqgen.gpu.launches import Launch
from seqgen.gpu.table import find_gpu
from seqgen.resource_report import report_kernels
from seqgen.runtime.loader import import_file

EXAMPLES = Path(__file__).parents[2] / "examples"
SPILLS = 512  # bytes; what a descriptor costs on a GPU without them is 30 KiB
CHANNELS = 2048  # of 64 channels, which kernels take on Hopper where 32 would be wrong (0016)


def defaults(gpu: str) -> dict[str, dict[str, object]]:
    """The default configuration of each kernel of the chunkwise schedule."""
    compiled = compile_spec(read_spec(EXAMPLES / "simple_gla.yaml"), find_gpu(gpu))
    return {space.kernel: dict(space.default) for space in compiled.schedule.spaces}


def test_descriptors_only_where_there_are_some() -> None:
    assert defaults("h200")["linear_backward"]["descriptors"]
    assert defaults("h200") == defaults("h100") == defaults("b200")
    for gpu in ("a100", "l40s", "mi300x"):
        assert not defaults(gpu)["linear_backward"]["descriptors"], gpu


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        *(("simple_gla", gpu) for gpu in ("a100", "l40s", "mi300x", "h200")),
        *((name, "a100") for name in ("mamba2_ssd", "retnet", "surprise_gated_retention")),
        *(("gla", gpu) for gpu in ("a100", "mi300x", "h200")),
        *((name, "h200") for name in ("rwkv6", "value_decay", "key_value_decay")),
    ],
)
def test_no_kernel_spills_much(name: str, gpu: str, tmp_path: Path) -> None:
    target = find_gpu(gpu)
    compiled = compile_spec(read_spec(EXAMPLES / f"{name}.yaml"), target)
    file = tmp_path / f"{name}.py"
    file.write_text(compiled.module.source)
    module = import_file(file)
    reports = report_kernels(module, compiled.recurrence, target, "bf16", lambda done, of: None)
    for report in reports:
        assert report.resources is not None and not report.problem, report
        many = gpu == "h200" and report.kernel.startswith(("vector_", "transposed_"))
        limit = CHANNELS if many else SPILLS
        assert report.resources.spill_store_bytes <= limit, report


@pytest.mark.parametrize("name", ["delta_rule", "kda", "gla", "simple_gla"])
@pytest.mark.parametrize(("size", "dtype"), [(64, "bf16"), (256, "bf16"), (128, "fp32")])
def test_every_size_can_launch(name: str, size: int, dtype: str, tmp_path: Path) -> None:
    """Heads of other sizes than the default, and tiles that take most shared memory."""
    target = find_gpu("h200")
    compiled = compile_spec(read_spec(EXAMPLES / f"{name}.yaml"), target)
    axes = tuple(
        replace(axis, size=size) if axis.name in "KV" else axis for axis in compiled.recurrence.axes
    )
    recurrence = replace(compiled.recurrence, axes=axes)
    file = tmp_path / f"{name}.py"
    file.write_text(compiled.module.source)
    reports = report_kernels(import_file(file), recurrence, target, dtype, lambda done, of: None)
    assert not [report for report in reports if report.problem]


def test_a_kernel_is_compiled_for_all_operands_it_is_launched_with(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(launches: Sequence[Launch], *_: object, **__: object) -> list[pool.CompileFailure]:
        return [pool.CompileFailure(x.name, str(x.arguments.get("SWAPPED"))) for x in launches]

    monkeypatch.setattr(pool, "compile_launches", refuse)
    target = find_gpu("h200")
    compiled = compile_spec(read_spec(EXAMPLES / "key_value_decay.yaml"), target)
    file = tmp_path / "key_value_decay.py"
    file.write_text(compiled.module.source)
    module = import_file(file)
    reports = report_kernels(module, compiled.recurrence, target, "bf16", lambda done, of: None)
    swapped = [report.problem for report in reports if report.kernel == "vector_gradients"]
    assert swapped == ["False", "True"]
    assert [report.kernel for report in reports].count("vector_scores") == 1
