"""What a generated file starts in threads while it is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqgen.build import compile_spec, read_spec
from seqgen.gpu.table import find_gpu
from seqgen.render.module import helper_source

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "simple_gla.yaml"

SCRIPT = """
import contextlib, os, sys, threading
from triton.runtime import cache
_INTERPRET = {interpret}
interval = sys.getswitchinterval()
exists, os.path.exists = os.path.exists, lambda path: {gpu} if path[:5] == "/dev/" else exists(path)
{source}
begun = sum(thread.name == _PREPARING for thread in threading.enumerate())
_prepare_triton()  # a second generated file
most = sum(thread.name == _PREPARING for thread in threading.enumerate())
_wait_for_triton()
usual = sys.getswitchinterval() == interval
print(begun > 0, most <= 2, cache.triton_key.cache_info().misses, usual)
"""


@pytest.mark.parametrize(
    ("interpret", "gpu", "wanted"),
    [
        (False, True, "True True 1 True"),
        (True, True, "False True 0 True"),
        (False, False, "False True 0 True"),
    ],
)
def test_triton_hashes_itself_once_and_only_for_a_gpu(
    interpret: bool, gpu: bool, wanted: str
) -> None:
    script = SCRIPT.format(interpret=interpret, gpu=gpu, source=helper_source("prepare"))
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == (wanted, "")


LAUNCHERS = """
import sys
import torch, triton
{source}
for value in list(globals().values()):
    if isinstance(value, triton.JITFunction):
        value.run = lambda *args, **kwargs: None
inputs = [torch.empty(2, 128, 4, 64, device="meta") for _ in range(3)]
inputs += [torch.empty(2, 128, 4, device="meta") for _ in range({rows})]
o, _ = _run_forward(*inputs, None, None, False)
_run_backward(*inputs, None, None, o, None)
print(sorted({{"sympy", "torch._dynamo"}} & set(sys.modules)))
"""


@pytest.mark.parametrize(("name", "rows"), [("simple_gla", 1), ("gated_delta_rule", 2)])
def test_launchers_without_data_import_nothing_large(name: str, rows: int, tmp_path: Path) -> None:
    """torch computes on meta tensors in Python: an empty_like alone imports sympy, 1 s or more."""
    spec = read_spec(EXAMPLE.with_stem(name))
    script = tmp_path / "launchers.py"
    source = compile_spec(spec, find_gpu("h200")).module.source
    script.write_text(LAUNCHERS.format(source=source, rows=rows), encoding="utf-8")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_it_begins_before_torch_is_imported() -> None:
    source = compile_spec(read_spec(EXAMPLE), find_gpu("h200")).module.source
    lines = source.splitlines()
    begin = lines.index("_prepare_triton()")
    assert {"import contextlib", "import os", "import sys", "import threading"} <= {*lines[:begin]}
    assert lines.index("import triton") < begin < lines.index("import torch  # noqa: E402")
