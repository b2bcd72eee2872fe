"""Runs tests/interpreted in processes where Triton interprets kernels, one on each core."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "interpreted"


def run(name):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(FOLDER / name)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    return subprocess.run(
        command, cwd=FOLDER.parents[1], env=environment, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def runs(request):
    chosen = [item for item in request.session.items if item.path == Path(__file__)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        names = [item.callspec.params["name"] for item in chosen]
        yield {name: pool.submit(run, name) for name in names}


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("test_*.py")))
def test_under_the_interpreter(name, runs):
    done = runs[name].result()
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
