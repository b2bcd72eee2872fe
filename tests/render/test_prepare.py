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
import contextlib, os, threading
from triton.runtime import cache
_INTERPRET = {interpret}
exists, os.path.exists = os.path.exists, lambda path: {gpu} if path[:5] == "/dev/" else exists(path)
{source}
begun = sum(thread.name == _PREPARING for thread in threading.enumerate())
_prepare_triton()  # a second generated file
most = sum(thread.name == _PREPARING for thread in threading.enumerate())
_wait_for_triton()
print(begun > 0, most <= 2, cache.triton_key.cache_info().misses)
"""


@pytest.mark.parametrize(
    ("interpret", "gpu", "wanted"),
    [
        (False, True, "True True 1"),
        (True, True, "False True 0"),
        (False, False, "False True 0"),
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


def test_it_begins_before_torch_is_imported() -> None:
    source = compile_spec(read_spec(EXAMPLE), find_gpu("h200")).module.source
    lines = source.splitlines()
    begin = lines.index("_prepare_triton()")
    assert lines.index("import triton") < begin < lines.index("import torch  # noqa: E402")
